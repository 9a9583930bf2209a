"""How tumours of the training cohort are distributed: draws missing conditions and tells unusual ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CohortDistribution:
    """A multivariate normal over transformed characteristics; see `engine/cohort_basis.py` for the basis."""

    columns: tuple[str, ...]  # condition columns of the table it was fitted from
    field_of_view_mm: tuple[float, float, float]  # what centre and box are shares of
    cases: int
    mean: tuple[float, ...]  # (B,) in the basis
    covariance: tuple[tuple[float, ...], ...]  # (B, B)
    low: tuple[float, ...]  # smallest and largest of the cohort in the basis; draws stay inside
    high: tuple[float, ...]
    distance_limit: float  # 99.9th percentile of the cohort's Mahalanobis distances

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers for bundle.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CohortDistribution:
        """The inverse of `to_json`, after JSON has turned tuples into lists."""
        return cls(
            columns=tuple(data["columns"]),
            field_of_view_mm=tuple(data["field_of_view_mm"]),
            cases=data["cases"],
            mean=tuple(data["mean"]),
            covariance=tuple(tuple(row) for row in data["covariance"]),
            low=tuple(data["low"]),
            high=tuple(data["high"]),
            distance_limit=data["distance_limit"],
        )

"""What the training cohort's tumours say, stored beside the stages: columns with normalisation, distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..engine.conditions.columns import ConditionColumn
from ..engine.conditions.distribution import CohortDistribution
from ..engine.decode import decode
from .checkpoint import read_json, write_json

CONDITIONS_NAME = "conditions.json"


def save_conditions(directory: Path, columns: Sequence[ConditionColumn], cohort: CohortDistribution) -> None:
    """Store what the cohort's tumours say: normalisation and distribution."""
    write_json(directory / CONDITIONS_NAME, {"columns": [asdict(c) for c in columns], "cohort": asdict(cohort)})


def load_conditions(directory: Path) -> tuple[tuple[ConditionColumn, ...], CohortDistribution]:
    """Condition columns with their normalisation, and the cohort's distribution.

    Raises:
        InvalidInputError: not there or damaged.
    """
    path = directory / CONDITIONS_NAME
    data = read_json(path)
    columns = tuple(decode(ConditionColumn, c, f"{path}: columns") for c in data.get("columns", []))
    return columns, decode(CohortDistribution, data.get("cohort"), f"{path}: cohort")

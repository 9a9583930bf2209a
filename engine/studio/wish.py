"""A wished tumour as the page holds it: its row of a condition table, what is wrong with it, what is drawn for it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..bundle.load import Bundle
from ..bundle.manifest import BundleManifest, SamplingDefaults
from ..conditions.cells import ID
from ..conditions.csv import parse_conditions
from ..conditions.unusual import UnusualRows
from ..errors import InvalidInputError
from ..run.options import asked_sampling

TABLE = "wish.csv"
"""What messages about one wish call its table."""
MOST_NUMBER = 9999
Start = Literal["drawn", "mask", "insert", "replace", "remove", "change"]
"""What a volume is made from: noise alone, around a mask; a scan with a lesion put in, put in the place of its own, or
taken out; a scan changed as a whole."""


class Wish(BaseModel):
    """One tumour that is wished for: sample `number` of a run whose row `number` has these cells."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cells: dict[str, str] = Field(default_factory=dict, max_length=32)  # by column, as typed; an empty one is drawn
    number: int = Field(0, ge=0, le=MOST_NUMBER)
    seed: int = Field(0, ge=0, le=2**53 - 1)  # what a page can hold exactly
    steps: int | None = Field(None, ge=1, le=65535)  # None: the bundle's
    guidance: float | None = Field(None, ge=0, le=100)  # None: the bundle's
    start: Start = "drawn"
    given: str | None = Field(None, max_length=64)  # the mask or scan of the page's own that it starts from
    strength: float = Field(0.5, ge=0, le=1)  # of a scan that is changed as a whole

    @property
    def has_row(self) -> bool:
        """Whether its cells say what is made; else what was given does."""
        return self.start not in ("mask", "remove")

    @property
    def has_case(self) -> bool:
        """Whether it starts from a scan."""
        return self.start not in ("drawn", "mask")

    def sampling(self, manifest: BundleManifest) -> SamplingDefaults:
        """How it is sampled, with what the bundle does where nothing is said."""
        return asked_sampling(manifest, steps=self.steps, guidance=self.guidance, from_case=self.has_case)

    def numbers(self) -> dict[str, float | str]:
        """The cells of a checked wish as numbers."""
        return {name: float(text) for name, text in self.cells.items() if text.strip()}


@dataclass(frozen=True)
class Checked:
    """What is known of a wish before anything is made."""

    faults: tuple[str, ...]  # of `conditions check`; with any, nothing else is known
    warnings: tuple[str, ...]
    row: dict[str, float]  # complete
    drawn: tuple[str, ...]  # its columns that the cohort supplies
    distance: float  # Mahalanobis distance of the given cells from the cohort
    limit: float  # its 99.9th percentile for as many cells

    def as_dict(self) -> dict[str, object]:
        """For the page."""
        return dict(vars(self))


def check(wish: Wish, bundle: Bundle) -> Checked:
    """The messages of `conditions check` for the wish as a table of one row, and the row that would be made."""
    cohort, columns = bundle.manifest.cohort, _columns(bundle)
    watch = UnusualRows(cohort)
    try:
        values = parsed(table([("", wish.cells)], columns), bundle, watch)[0]
    except InvalidInputError as error:
        return Checked(tuple(str(error).splitlines()), (), {}, (), 0.0, 0.0)
    complete = cohort.complete_sample(values, wish.seed, wish.number)
    distance, limit = cohort.mahalanobis(values[None])
    drawn = tuple(name for name, value in zip(columns, values, strict=True) if np.isnan(value))
    row = {name: float(value) for name, value in zip(columns, complete, strict=True)}
    return Checked((), tuple(watch.messages(TABLE)), row, drawn, float(distance[0]), float(limit[0]))


def parsed(text: str, bundle: Bundle, watch: UnusualRows | None = None) -> NDArray[np.float64]:
    """The rows (N, K) of a table as the command line reads them; InvalidInputError with all faults."""
    columns = _columns(bundle)
    read = parse_conditions(text.encode(), TABLE, columns, bundle.manifest.grid.fov_mm, watch)
    return np.array([read.at(row)[1] for row in range(len(read))])


def table(rows: Sequence[tuple[str, Mapping[str, str]]], columns: Sequence[str]) -> str:
    """Ids and cells as the text of a condition table; columns that no row gives are left out, unknown ones stay."""
    given = {name for _, cells in rows for name, text in cells.items() if text.strip()}
    names = [*(name for name in columns if name in given), *sorted(given - {*columns})]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([ID, *names])
    for number, (name, cells) in enumerate(rows):
        writer.writerow([name or f"wish-{number}", *(cells.get(column, "").strip() for column in names)])
    return out.getvalue()


def _columns(bundle: Bundle) -> list[str]:
    return [column.name for column in bundle.manifest.condition_columns]

"""What a report tells of a run, gathered from its ledger and its directory before a page is begun."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..folder import Folder, temporary_of
from ..run.description import RunDescription
from ..run.directory import damaged_files
from ..run.ledger import LedgerIndex, SampleRecord
from ..run.manifest import MANIFEST_CSV
from ..run.outcomes import Outcomes
from ..run.owned import REPORT_NAME, OwnNames
from ..run.selection import parse_samples
from ..screen import counted

FIRST_CASES = 12
ALL = "all"
MAX_LISTED = 20
"""Of the faults of a kind, in the page and beside each other."""


@dataclass
class Cohort:
    """The good samples of a run as columns; row k of each is one sample."""

    columns: tuple[str, ...]
    samples: array[int] = field(default_factory=lambda: array("q"))
    names: list[str] = field(default_factory=list)
    _requested: array[float] = field(default_factory=lambda: array("d"))
    _measured: array[float] = field(default_factory=lambda: array("d"))

    def add(self, record: SampleRecord) -> None:
        """Take a sample in."""
        self.samples.append(record.sample)
        self.names.append(record.id)
        self._requested.extend(record.requested[name] for name in self.columns)
        given = (record.measured.get(name) for name in self.columns)
        self._measured.extend(float("nan") if value is None else value for value in given)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def requested(self) -> NDArray[np.float64]:
        """(samples, columns)."""
        return np.array(self._requested).reshape(-1, len(self.columns))

    @property
    def measured(self) -> NDArray[np.float64]:
        """(samples, columns); NaN for what an empty tumour lacks."""
        return np.array(self._measured).reshape(-1, len(self.columns))

    def pairs(self) -> dict[str, NDArray[np.float64]]:
        """Column -> (samples, 2) of requested and measured."""
        both = np.stack([self.requested, self.measured], axis=-1)
        return {name: both[:, k] for k, name in enumerate(self.columns)}


@dataclass
class RunFacts:
    """A run, its samples and what is wrong with them."""

    run: RunDescription
    index: LedgerIndex
    outcomes: Outcomes
    cohort: Cohort
    failed: list[tuple[int, str, str]] = field(default_factory=list)  # sample, id, why
    shown: list[int] = field(default_factory=list)  # samples of the viewer
    not_shown: list[str] = field(default_factory=list)  # chosen cases that cannot be shown, and why
    left_out: int = 0  # good samples that were not chosen
    foreign: list[str] = field(default_factory=list)  # files in the directory that are none of the run's
    has_manifest: bool = True

    @property
    def absent(self) -> int:
        """Samples of the run that no ledger here records."""
        return self.run.options.count - len(self.index.places)

    def warnings(self) -> list[str]:
        """What a user should know, a line each."""
        found = [*self.outcomes.told(), *self.not_shown, *self.index.told_faults()]
        if self.failed:
            found.append(f"{len(self.failed)} of {self.outcomes.samples} samples failed")
        if self.absent:
            found.append(f"not made, or not in this directory: {counted(self.absent, 'sample')} of the run")
        if self.foreign:
            found.append(f"none of the run's: {counted(len(self.foreign), 'file')}, such as {self.foreign[0]}")
        return found


def gather(folder: Folder, run: RunDescription, cases: str | None) -> RunFacts:
    """The facts of a run, its chosen cases (`cases` as "3,7-9" or "all"; None: the first good ones) hashed.

    Raises:
        UsageError: cases that the run does not have.
        OSError: the directory cannot be read.
    """
    chosen = None if cases in (None, ALL) else parse_samples(cases or "", run.options.count, "--cases")
    index = LedgerIndex.of_folder(folder, run)
    facts = RunFacts(run, index, Outcomes(), Cohort(run.bundle.columns), has_manifest=folder.has(MANIFEST_CSV))
    for record in index.records():
        facts.outcomes.add(record)
        if record.fault is None:
            facts.cohort.add(record)
        else:
            facts.failed.append((record.sample, record.id, record.fault))
    wanted = _wanted(facts, cases, chosen)
    good = set(facts.cohort.samples)
    for record in index.records([sample for sample in wanted if sample in good]):
        if damage := damaged_files(folder, run, record):
            facts.not_shown += [f"sample {record.sample} is not shown: {path} is {what}" for path, what in damage]
        else:
            facts.shown.append(record.sample)
    facts.not_shown += _missing(facts, chosen or ())
    facts.left_out = len(good) - len(good.intersection(wanted))
    facts.foreign = list(_foreign(folder, run))
    return facts


def _wanted(facts: RunFacts, cases: str | None, chosen: Sequence[int] | None) -> list[int]:
    good = facts.cohort.samples.tolist()
    if chosen is not None:
        return list(chosen)
    return good if cases == ALL else good[:FIRST_CASES]


def _missing(facts: RunFacts, chosen: Sequence[int]) -> list[str]:
    failed = {sample for sample, _, _ in facts.failed}
    told = [f"sample {sample} of --cases failed and has no volume" for sample in chosen if sample in failed]
    absent = [sample for sample in chosen if sample not in facts.index.places]
    return told + [f"sample {sample} of --cases is not made, or not in this directory" for sample in absent]


def _foreign(folder: Folder, run: RunDescription) -> list[str]:
    owns = OwnNames(run)
    names = (name for name in folder.walk() if not owns(name))
    return [name for name in names if temporary_of(name) != REPORT_NAME]

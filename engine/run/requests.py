"""Which tumour each sample of a run is asked to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.manifest import BundleManifest
from ..conditions.columns import ConditionColumn, ConditionRows, normalise, request_of_sample
from ..sampling.types import SampleRequest


@dataclass(frozen=True)
class SampleTask:
    """One sample to make, at one attempt."""

    sample: int
    id: str
    requested: tuple[float, ...]  # complete, in the order of the bundle's condition columns
    drawn: tuple[str, ...]  # columns that the cohort supplied
    attempt: int = 0


@dataclass(frozen=True)
class Requests:
    """The tumours of a run, completed on demand: sample k needs nothing of the others."""

    conditions: ConditionRows  # in the order of the bundle's columns
    manifest: BundleManifest
    seed: int

    @staticmethod
    def of(conditions: ConditionRows, manifest: BundleManifest, seed: int) -> Requests:
        """Requests for a run's seed."""
        return Requests(conditions, manifest, seed)

    def task(self, sample: int) -> SampleTask:
        """The first attempt at a sample."""
        name, row = request_of_sample(self.conditions, sample)
        complete = self.manifest.cohort.complete_sample(row, self.seed, sample)
        drawn = tuple(name for name, value in zip(self.conditions.columns, row, strict=True) if np.isnan(value))
        return SampleTask(sample, name, tuple(float(v) for v in complete), drawn)

    def groups(self, samples: Iterable[int], batch_size: int) -> Iterator[list[SampleTask]]:
        """The tasks of `samples` (sorted), those of one batch (sample // batch_size) together."""
        group: list[SampleTask] = []
        for sample in samples:
            if group and group[0].sample // batch_size != sample // batch_size:
                yield group
                group = []
            group.append(self.task(sample))
        if group:
            yield group


def sample_requests(tasks: Sequence[SampleTask], columns: Sequence[ConditionColumn]) -> list[SampleRequest]:
    """What a loop is given for these tasks: their conditions, and the same normalised by the bundle's columns."""
    wanted = np.array([task.requested for task in tasks])
    rows = zip(tasks, normalise(wanted, columns), wanted, strict=True)
    return [SampleRequest(task.sample, task.attempt, normalised, own) for task, normalised, own in rows]

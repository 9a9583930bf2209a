"""Timing that does not flatter: warm-up, interleaved repeats, medians, and a mark where the machine was busy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .machine import BUSY_CORES, OtherLoad


@dataclass(frozen=True)
class Run:
    """One timed run."""

    seconds: float
    other_cores: float  # that other processes took meanwhile

    @property
    def busy(self) -> bool:
        """Whether others took more than BUSY_CORES."""
        return self.other_cores > BUSY_CORES


@dataclass(frozen=True)
class Timing:
    """Several runs of one thing. Median and spread are those of the quiet runs, of all where none was quiet."""

    seconds: float
    fastest: float
    slowest: float
    runs: int
    busy_runs: int
    other_cores: float  # the most of any run that counts

    @property
    def busy(self) -> bool:
        """Whether no run was quiet, so that the figure says little."""
        return self.busy_runs == self.runs


def timed(call: Callable[[], object]) -> Run:
    """Run once."""
    load = OtherLoad()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return Run(seconds, load.cores())


def summarise(runs: Sequence[Run], share: float = 1.0) -> Timing:
    """Timing of some runs (at least one), each multiplied by `share`, such as 1 / volumes of a run."""
    quiet = [run for run in runs if not run.busy]
    counted = quiet or list(runs)
    seconds = [share * run.seconds for run in counted]
    return Timing(
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        len(runs),
        len(runs) - len(quiet),
        max(run.other_cores for run in counted),
    )


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Each call once to warm up, then all of them by turns, `repeats` times."""
    for call in calls.values():
        call()
    runs: dict[str, list[Run]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            runs[name].append(timed(call))
    return {name: summarise(taken) for name, taken in runs.items()}

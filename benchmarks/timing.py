"""Timing that does not flatter: warm-up, interleaved repeats, medians, and a mark where the machine was busy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from .energy import EnergyMeter
from .machine import BUSY_CORES, OtherLoad


@dataclass(frozen=True)
class Run:
    """One timed run."""

    seconds: float
    other_cores: float  # that other processes took meanwhile
    joules: Mapping[str, float] = field(default_factory=dict)  # by what took them, where that is measured

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


@dataclass(frozen=True)
class Energy:
    """What something took of processor or GPU, other processes and idling included: medians as of `Timing`."""

    joules: float
    watts: float


def timed(call: Callable[[], object], meter: EnergyMeter | None = None) -> Run:
    """Run once; with a meter its joules, too."""
    load = OtherLoad()
    before = {} if meter is None else meter.read()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    joules = {} if meter is None else meter.since(before, seconds)
    return Run(seconds, load.cores(), joules)


def quiet_runs(runs: Sequence[Run]) -> list[Run]:
    """Those that count: all but the busy ones, all where none was quiet."""
    return [run for run in runs if not run.busy] or list(runs)


def energy(runs: Sequence[Run], share: float = 1.0) -> dict[str, Energy]:
    """Energy of some runs by what took it, joules multiplied by `share`; empty where it was not measured."""
    counted = quiet_runs(runs)
    found = {}
    for part in sorted({part for run in counted for part in run.joules}):
        measured = [run for run in counted if part in run.joules]
        joules = statistics.median(share * run.joules[part] for run in measured)
        found[part] = Energy(joules, statistics.median(run.joules[part] / run.seconds for run in measured))
    return found


def summarise(runs: Sequence[Run], share: float = 1.0) -> Timing:
    """Timing of some runs (at least one), each multiplied by `share`, such as 1 / volumes of a run."""
    counted = quiet_runs(runs)
    seconds = [share * run.seconds for run in counted]
    return Timing(
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        len(runs),
        sum(run.busy for run in runs),
        max(run.other_cores for run in counted),
    )


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Each call once to warm up, then all of them by turns, `repeats` times."""
    return by_turns({name: partial(timed, call) for name, call in calls.items()}, repeats)


def by_turns(takes: Mapping[str, Callable[[], Run]], repeats: int) -> dict[str, Timing]:
    """As `interleaved`, of what times itself."""
    for take in takes.values():
        take()
    runs: dict[str, list[Run]] = {name: [] for name in takes}
    for _ in range(repeats):
        for name, take in takes.items():
            runs[name].append(take())
    return {name: summarise(taken) for name, taken in runs.items()}

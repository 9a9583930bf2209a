"""A run on a Ray cluster: one actor a GPU or a share of the CPUs, small ranges of work, lost actors replaced.

Actors write into the run directory, which must be storage that all nodes share; the driver keeps the ledger. On nodes
of the same class the bytes are those of a local run.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailableError, IncompleteRunError
from ..telemetry import Figures, Telemetry
from .ledger import SampleRecord
from .requests import SampleTask
from .workers import BEAT_S, SILENT_S, START_S, Group, WorkerSetup, make_pipeline

if TYPE_CHECKING:
    from types import ModuleType

LOCAL = "local"
_GROUPS_A_RANGE = 4  # enough to overlap sampling with writing, little to lose
_MAX_DEATHS = 2  # of actors that made a range, before it is split; a single sample counts as failed
_MAX_DEATHS_IN_A_ROW = 8
_POLL_S = 0.5
_TELL_S = 30.0  # without room in the cluster, before that is told
ROOM_S = 600.0  # before the run is given up

Range = list[Group]


@dataclass
class _Slot:
    """One actor, the range that it is making, and its signs of life."""

    number: int
    actor: Any
    work: Range = field(default_factory=list)
    given: float = 0.0  # when it got its work
    first_heard: float | None = None
    heard: float = 0.0
    beats: int = 0


class RayCluster:
    """Runs ranges of a run on the actors of a connected cluster; `record` and `telemetry` are used in this thread."""

    def __init__(
        self,
        ray: ModuleType,
        setup: WorkerSetup,
        most: int | None,
        record: Callable[[SampleRecord], None],
        telemetry: Telemetry,
    ) -> None:
        self._ray, self._record, self._telemetry = ray, record, telemetry
        self._setup = replace(
            setup,
            bundle=setup.bundle.absolute(),
            directory=setup.directory.absolute(),
            device=setup.run.resolved.device,  # an actor sees the GPU that Ray gave it, as number 0
        )
        self._most = most
        self._running: dict[Any, _Slot] = {}
        self._deaths: Counter[int] = Counter()  # by first sample of a range
        self._deaths_in_a_row = 0
        self._started = 0
        self._listened = time.monotonic()
        self._pulse: Any = None
        self._returned: list[Range] = []
        self._failed: list[SampleTask] = []

    def run(self, groups: Iterator[Group], stop: threading.Event) -> list[SampleTask]:
        """Make every group, or stop early when `stop` is set; returns the tasks whose actors died.

        Raises:
            SbldmError: what an actor raised: a full disk, a backend that cannot be had.
            IncompleteRunError: actors die one after another.
        """
        ranges = iter(lambda: list(islice(groups, _GROUPS_A_RANGE)), [])
        self._pulse = self._ray.remote(_Pulse).options(num_cpus=0).remote()
        idle: list[_Slot] = []
        waiting = {slot.actor.__ray_ready__.remote(): slot for slot in (self._start() for _ in range(self._actors()))}
        try:
            self._await_room(list(waiting), stop)
            while not stop.is_set():
                begun, _ = (
                    self._ray.wait(list(waiting), num_returns=max(1, len(waiting)), timeout=0) if waiting else ([], [])
                )
                idle += [waiting.pop(reference) for reference in begun]
                while idle and (work := self._next(ranges)):
                    slot = idle.pop()
                    slot.work, slot.given = work, time.monotonic()
                    slot.heard = slot.given
                    self._running[slot.actor.make.remote(work)] = slot
                if not self._running:
                    break
                finished, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
                idle += [self._collect(reference) for reference in finished]
                idle += self._end_overdue()
            return self._failed
        finally:
            for slot in chain(idle, waiting.values(), self._running.values()):
                self._ray.kill(slot.actor)
            self._ray.kill(self._pulse)

    def _await_room(self, actors: list[Any], stop: threading.Event) -> None:
        """Until one actor has a place; BackendUnavailableError where the cluster stays full."""
        start, told = time.monotonic(), False
        while not stop.is_set() and not self._ray.wait(actors, num_returns=1, timeout=_POLL_S)[0]:
            waited = time.monotonic() - start
            if waited > _TELL_S and not told:
                told = True
                logging.getLogger("sbldm").warning(
                    f"--ray: the cluster is full; waiting up to {ROOM_S:.0f} s for room (see `ray status`)"
                )
            elif waited > ROOM_S:
                raise BackendUnavailableError(f"--ray: the cluster had no room for an actor in {ROOM_S:.0f} s")

    def _actors(self) -> int:
        resources = self._ray.cluster_resources()
        if self._setup.run.resolved.device == "cuda":
            found = int(resources.get("GPU", 0))
        else:
            found = int(resources.get("CPU", 1)) // self._setup.run.resolved.threads
        return max(1, found if self._most is None else min(found, self._most))

    def _start(self) -> _Slot:
        gpu = self._setup.run.resolved.device == "cuda"
        cpus = 1 if gpu else min(self._setup.run.resolved.threads, int(self._ray.cluster_resources().get("CPU", 1)))
        actor = self._ray.remote(_Maker).options(num_cpus=cpus, num_gpus=int(gpu), max_restarts=0, max_task_retries=0)
        self._started += 1
        return _Slot(self._started, actor.remote(self._setup, self._pulse, self._started))

    def _next(self, ranges: Iterator[Range]) -> Range:
        return self._returned.pop() if self._returned else next(ranges, [])

    def _collect(self, reference: Any) -> _Slot:
        """Record what an actor made; returns an idle actor, a new one if this one died."""
        slot = self._running.pop(reference)
        try:
            records, figures = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            self._lost(slot.work)
            return self._start()
        self._deaths_in_a_row = 0
        self._telemetry.absorb(figures)
        for record in records:
            self._record(record)
            self._telemetry.count("done" if record.fault is None else "failed")
        return slot

    def _end_overdue(self) -> list[_Slot]:
        """Kill and replace the actors that are silent or take too long; returns the new ones."""
        if time.monotonic() - self._listened < BEAT_S:
            return []
        beats, now = self._heard_beats(), time.monotonic()
        self._listened = now
        replaced: list[_Slot] = []
        for reference, slot in list(self._running.items()):
            if beats is None or beats.get(slot.number, 0) > slot.beats:
                slot.beats = slot.beats if beats is None else beats[slot.number]
                slot.heard = now
                slot.first_heard = slot.first_heard or now
            if slot.first_heard is None:  # it waits for a place on the cluster
                continue
            samples = sum(len(group) for group in slot.work)
            limit = START_S * (slot.first_heard > slot.given) + self._setup.time_for(samples)
            if now - slot.heard > SILENT_S or now - max(slot.given, slot.first_heard) > limit:
                del self._running[reference]
                self._ray.kill(slot.actor)
                self._lost(slot.work)
                replaced.append(self._start())
        return replaced

    def _heard_beats(self) -> dict[int, int] | None:
        """Beats by number of the actor; None where the listener itself does not answer, and says nothing of them."""
        try:
            return self._ray.get(self._pulse.beats.remote(), timeout=BEAT_S)
        except (self._ray.exceptions.GetTimeoutError, self._ray.exceptions.RayActorError):
            return None

    def _lost(self, work: Range) -> None:
        self._telemetry.count("lost_workers")
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > _MAX_DEATHS_IN_A_ROW:
            raise IncompleteRunError(f"{self._deaths_in_a_row} Ray actors died one after another; go on with --resume")
        first = work[0][0].sample
        self._deaths[first] += 1
        if self._deaths[first] < _MAX_DEATHS:
            self._returned.append(work)
        elif len(work) > 1:
            self._returned.extend([group] for group in work)  # find the group that kills
        elif len(work[0]) > 1:
            self._returned.extend([[task]] for task in work[0])  # and in it the sample
        else:
            self._failed.extend(work[0])


class _Pulse:
    """The actor that hears the others' signs of life."""

    def __init__(self) -> None:
        self._beats = Counter[int]()

    def beat(self, number: int) -> None:
        """A sign of life of actor `number`."""
        self._beats[number] += 1

    def beats(self) -> dict[int, int]:
        """Their number by actor."""
        return dict(self._beats)


class _Maker:
    """The actor: makes ranges of samples on its node."""

    def __init__(self, setup: WorkerSetup, pulse: Any, number: int) -> None:
        self._setup = setup
        threading.Thread(target=_beat, args=(pulse, number), daemon=True).start()
        self._telemetry = Telemetry()
        self._records: list[SampleRecord] = []
        self._pipeline: Any = None

    def make(self, work: Range) -> tuple[list[SampleRecord], Figures]:
        """Make a range; its records, and what it took."""
        from .directory import disk_faults

        with disk_faults(self._setup.directory):
            if self._pipeline is None:
                self._pipeline = make_pipeline(self._setup, self._telemetry, self._records.append)
            for group in work:
                self._pipeline.feed(group)
            self._pipeline.drain()
        made, self._records[:] = list(self._records), []
        return made, self._telemetry.take()


def _beat(pulse: Any, number: int) -> None:
    while True:
        pulse.beat.remote(number)
        time.sleep(BEAT_S)


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at `address`: host:port, "auto" for the one that runs here, "local" to start one.

    One that is started here is ours alone, whatever RAY_ADDRESS says, and ends with the run.

    Raises:
        BackendUnavailableError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailableError('--ray needs Ray: pip install "sbldm-engine[ray]"') from error
    token = False
    joined = not ray.is_initialized()
    if joined:
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            options["include_dashboard"] = False
            token = "RAY_AUTH_TOKEN" not in os.environ
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray keeps one in HOME
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if token:
                del os.environ["RAY_AUTH_TOKEN"]
            raise BackendUnavailableError(f"--ray {address}: no cluster answers ({error})") from error
    try:
        yield ray
    finally:
        if joined:
            ray.shutdown()
        if token:
            del os.environ["RAY_AUTH_TOKEN"]

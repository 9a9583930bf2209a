"""Whole runs to disk, the way `generate` makes them, with the volumes kept for a look at their quality."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.bundle.load import Bundle
from ..engine.run.ahead import processes_ahead, working_ahead
from ..engine.run.job import Job, execute, prepare
from ..engine.run.open_loop import open_loop
from ..engine.run.request import GenerateRequest
from ..engine.sampling.ahead import AheadLoop
from ..engine.sampling.types import Backend, BatchLoop, SampleRequest, Volume
from ..engine.telemetry import Telemetry
from .plan import Point


class KeepingLoop:
    """A loop that remembers the volumes it made, by sample number, while `keep` is set; `loop` is what makes them."""

    def __init__(self) -> None:
        self.loop: BatchLoop | AheadLoop | None = None
        self.keep = True
        self.volumes: dict[int, Volume | Future[Volume]] = {}

    @property
    def in_flight(self) -> int:
        """As of the loop."""
        assert self.loop is not None
        return self.loop.in_flight

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Any]]:
        """As the loop's own."""
        assert self.loop is not None
        collect = self.loop.start(requests, on_step)

        def kept() -> list[Any]:
            volumes = collect()
            if self.keep:
                self.volumes |= {request.number: volume for request, volume in zip(requests, volumes, strict=True)}
            return volumes

        return kept


class EndToEnd:
    """One point, ready to be run again and again into the directory `out`, which `clear` removes."""

    def __init__(self, bundle: Bundle, point: Point, backend: Backend, volumes: int, seed: int, out: Path) -> None:
        request = GenerateRequest(
            bundle=bundle, count=volumes, out=out, steps=point.steps, sampler=point.sampler, eta=0.0, seed=seed,
            backend=backend.name, device=backend.device, precision=backend.precision, batch_size=point.batch,
            threads=backend.threads,
        )  # fmt: skip
        job = replace(prepare(request), loop=None)  # whose memory on a GPU is needed
        self._opened, self._loop = open_loop(bundle, backend, job.run.options, point.batch), KeepingLoop()
        self._job: Job = replace(job, loop=self._loop)
        self.stage_seconds: dict[str, float] = {}
        self.bytes_a_volume = 0.0
        self.requested: list[Mapping[str, float]] = [self._requested(sample) for sample in range(volumes)]

    def run(self) -> None:
        """Make all volumes, to disk."""
        telemetry = Telemetry()
        out = self._job.out
        with working_ahead(self._opened, processes_ahead(self._opened, self._job.request.threads)) as self._loop.loop:
            summary = execute(self._job, telemetry, threading.Event())
        if summary.interrupted:
            raise KeyboardInterrupt
        self.stage_seconds = telemetry.take().seconds
        self.bytes_a_volume = sum(f.stat().st_size for f in out.rglob("*.nii.gz")) / len(self.requested)

    def first_run(self) -> list[Volume]:
        """Warm up, and return the volumes in the order of their numbers."""
        self.run()
        self.clear()
        self._loop.keep = False
        kept = [self._loop.volumes[number] for number in range(len(self.requested))]
        self._loop.volumes = {}
        return [volume if isinstance(volume, Volume) else volume.result() for volume in kept]

    def clear(self) -> None:
        """Remove what the last run wrote."""
        shutil.rmtree(self._job.out)

    def _requested(self, sample: int) -> dict[str, float]:
        columns = [column.name for column in self._job.bundle.manifest.condition_columns]
        return dict(zip(columns, self._job.requests.task(sample).requested, strict=True))

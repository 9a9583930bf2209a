"""Whole runs to disk, the way `generate` makes them, with the volumes kept for a look at their quality."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..engine.bundle.load import Bundle
from ..engine.run.job import Job, execute, prepare
from ..engine.run.open_loop import open_loop
from ..engine.run.request import GenerateRequest
from ..engine.sampling.types import Backend, BatchLoop, SampleRequest, Volume
from ..engine.telemetry import Telemetry
from .plan import Point


class KeepingLoop:
    """A loop that remembers the volumes it made, by sample number, while `keep` is set."""

    def __init__(self, loop: BatchLoop) -> None:
        self._loop = loop
        self.in_flight = loop.in_flight
        self.keep = True
        self.volumes: dict[int, Volume] = {}

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """As the loop's own."""
        collect = self._loop.start(requests, on_step)

        def kept() -> list[Volume]:
            volumes = collect()
            if self.keep:
                self.volumes |= {volume.number: volume for volume in volumes}
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
        self._loop = KeepingLoop(open_loop(bundle, backend, job.run.options, point.batch))
        self._job: Job = replace(job, loop=self._loop)
        self.stage_seconds: dict[str, float] = {}
        self.bytes_a_volume = 0.0
        self.requested: list[Mapping[str, float]] = [self._requested(sample) for sample in range(volumes)]

    def run(self) -> None:
        """Make all volumes, to disk."""
        telemetry = Telemetry()
        out = self._job.out
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
        volumes = [self._loop.volumes[number] for number in range(len(self.requested))]
        self._loop.volumes = {}
        return volumes

    def clear(self) -> None:
        """Remove what the last run wrote."""
        shutil.rmtree(self._job.out)

    def _requested(self, sample: int) -> dict[str, float]:
        columns = [column.name for column in self._job.bundle.manifest.condition_columns]
        return dict(zip(columns, self._job.requests.task(sample).requested, strict=True))

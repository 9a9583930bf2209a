"""Whole runs with a stub in the place of the networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.conditions.columns import blank
from sbldm.engine.run.description import Resolved, RunDescription, describe
from sbldm.engine.run.directory import RunDirectory, disk_faults
from sbldm.engine.run.ledger import SampleRecord, Shard
from sbldm.engine.run.options import RunOptions
from sbldm.engine.run.pipeline import Pipeline
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.run.requests import Requests
from sbldm.engine.run.selection import Selection
from sbldm.engine.run.writer import Finisher
from sbldm.engine.sampling.types import SampleRequest, Volume
from sbldm.engine.telemetry import Telemetry


class StubSampler:
    """Volumes whose tumour grows with the attempt; `bad` names the attempts that come out broken, by sample."""

    def __init__(self, shape: tuple[int, ...], bad: dict[int, set[int]] | None = None) -> None:
        self.shape, self.bad = shape, bad or {}
        self.asked: list[tuple[int, int]] = []
        self.in_flight, self.flying, self.most = 1, 0, 0

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        self.asked += [(r.number, r.attempt) for r in requests]
        self.flying += 1
        self.most = max(self.most, self.flying)
        return lambda: self.land(requests)

    def land(self, requests: Sequence[SampleRequest]) -> list[Volume]:
        self.flying -= 1
        return [self.volume(r) for r in requests]

    def volume(self, request: SampleRequest) -> Volume:
        image = np.full((4, *self.shape), 500, np.int16)
        label = np.zeros(self.shape, np.uint8)
        label[2 : 5 + request.attempt, 2:6, 2:6] = 2
        fault = "blank" if request.attempt in self.bad.get(request.number, ()) else None
        return Volume(request.number, request.attempt, image, label, fault)


def stub_plan(bundle: Bundle, count: int, batch_size: int = 1, **asked: object) -> RunDescription:
    """The description of a run of the stub."""
    options: RunOptions = GenerateRequest(bundle=bundle, count=count, steps=1, **asked).options()  # type: ignore[arg-type]
    resolved = Resolved("stub", "cpu", "fp32", batch_size, 1, "isal-1")
    return describe(bundle, options, resolved, {"stub": "1"}, None)


def make_run(
    bundle: Bundle,
    plan: RunDescription,
    directory: Path,
    shard: Shard | None = None,
    said: Callable[[str], None] = lambda _: None,
    bad: dict[int, set[int]] | None = None,
) -> int:
    """Make or go on with a run as `execute` does, with one writer; tells of each recorded sample and of the end."""
    requests = Requests.of(blank([c.name for c in bundle.manifest.condition_columns]), bundle.manifest, 0)
    selection = Selection(plan.options.count, plan.resolved.batch_size, shard or Shard())
    stub = StubSampler(bundle.manifest.grid.shape, bad)
    with RunDirectory(directory, plan, selection) as opened:
        finisher = Finisher(directory, plan, bundle.manifest, Telemetry())

        def record(sample: SampleRecord) -> None:
            opened.record(sample)
            said(f"sample {sample.sample}")

        with disk_faults(directory), Pipeline(stub, finisher, record, writers=1) as pipeline:
            for group in requests.groups(opened.todo, plan.resolved.batch_size):
                pipeline.feed(group)
            pipeline.drain()
        failed = opened.close_complete().failed
    said("done")
    return failed

"""The pipeline with a stub in the place of the networks: faults, redraws, full queues, errors of writing."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.conditions.columns import blank
from sbldm.engine.folder import Folder
from sbldm.engine.output.measure import measure_tumour
from sbldm.engine.run.description import RunDescription
from sbldm.engine.run.ledger import SampleRecord
from sbldm.engine.run.pipeline import Pipeline
from sbldm.engine.run.requests import Requests
from sbldm.engine.run.writer import NO_TUMOUR, Finisher, miss
from sbldm.engine.sampling.types import SampleRequest, Volume
from sbldm.engine.telemetry import Telemetry

from tests.support.stub_runs import StubSampler, stub_plan


@pytest.fixture
def plan(tiny_bundle: Bundle) -> RunDescription:
    return stub_plan(tiny_bundle, 12, batch_size=2)


def run_all(
    bundle: Bundle, plan: RunDescription, stub: StubSampler, out: Path, **options: int
) -> tuple[list[SampleRecord], Telemetry]:
    records: list[SampleRecord] = []
    telemetry = Telemetry()
    requests = Requests.of(blank([c.name for c in bundle.manifest.condition_columns]), bundle.manifest, 0)
    out.mkdir()
    finisher = Finisher(out, plan, bundle.manifest, telemetry)
    with Pipeline(stub, finisher, records.append, **options) as pipeline:
        for group in requests.groups(range(plan.options.count), plan.resolved.batch_size):
            pipeline.feed(group)
        pipeline.drain()
    return sorted(records, key=lambda r: r.sample), telemetry


def test_groups_are_batches_and_all_is_recorded(tiny_bundle, plan, tmp_path: Path) -> None:
    stub = StubSampler(tiny_bundle.manifest.grid.shape)
    records, telemetry = run_all(tiny_bundle, plan, stub, tmp_path / "out", writers=3)
    assert [r.sample for r in records] == list(range(12))
    assert stub.asked == [(k, 0) for k in range(12)]
    assert all((tmp_path / "out" / entry.path).stat().st_size == entry.bytes for r in records for entry in r.files)
    figures = telemetry.snapshot()
    assert (figures["done"], figures["failed"], figures["queue_depth"]) == (12, 0, 0)
    assert all(figures["stage_seconds"][stage] > 0 for stage in ("measure", "write"))


def test_a_sampler_with_two_lanes_is_kept_busy(tiny_bundle, plan, tmp_path: Path) -> None:
    stub = StubSampler(tiny_bundle.manifest.grid.shape)
    stub.in_flight = 2
    records, _ = run_all(tiny_bundle, plan, stub, tmp_path / "out")
    assert [r.sample for r in records] == list(range(12))
    assert (stub.most, stub.flying) == (2, 0)


def test_broken_volumes_are_never_written(tiny_bundle, plan, tmp_path: Path) -> None:
    stub = StubSampler(tiny_bundle.manifest.grid.shape, {3: {0}, 7: {0}})
    records, telemetry = run_all(tiny_bundle, plan, stub, tmp_path / "out")
    assert [(r.sample, r.fault) for r in records if r.fault] == [(3, "blank"), (7, "blank")]
    assert not (tmp_path / "out/sbldm-000003").exists()
    assert telemetry.snapshot()["failed"] == 2


class EmptyAtFirst(StubSampler):
    """Sample 1 has no tumour at attempt 0, sample 2 never."""

    def volume(self, request: SampleRequest) -> Volume:
        volume = super().volume(request)
        empty = request.number == 2 or (request.number == 1 and request.attempt == 0)
        return replace(volume, label=np.zeros_like(volume.label)) if empty else volume


@pytest.mark.parametrize(("reject", "failed", "attempts"), [(None, [1, 2], [0, 0, 0]), (1e6, [2], [0, 1, 2])])
def test_a_mask_without_a_tumour_has_failed_once_its_redraws_are_spent(
    tiny_bundle, plan, tmp_path: Path, reject: float | None, failed: list[int], attempts: list[int]
) -> None:
    plan = replace(plan, options=replace(plan.options, count=3, reject=reject, attempts=2))
    records, telemetry = run_all(tiny_bundle, plan, EmptyAtFirst(tiny_bundle.manifest.grid.shape), tmp_path / "out")
    assert [r.attempt for r in records] == attempts
    assert [r.sample for r in records if r.fault == NO_TUMOUR] == failed
    assert [(tmp_path / "out" / f"sbldm-00000{k}").exists() for k in range(3)] == [k not in failed for k in range(3)]
    assert telemetry.snapshot()["failed"] == len(failed)


def test_reject_redraws_until_the_tumour_fits_or_keeps_the_best(tiny_bundle, plan, tmp_path: Path) -> None:
    """The stub's attempts 0, 1, 2 have 48, 64 and 80 voxels; tolerance and breakage decide which one is kept."""
    plan = replace(plan, options=replace(plan.options, count=2, reject=1e-9, attempts=2))
    stub = StubSampler(tiny_bundle.manifest.grid.shape, {1: {0, 1, 2}})
    records, telemetry = run_all(tiny_bundle, plan, stub, tmp_path / "out")
    assert sorted(stub.asked) == [(s, a) for s in (0, 1) for a in (0, 1, 2)]
    grid = tiny_bundle.manifest.grid
    misses = []
    for attempt in range(3):
        volume = stub.volume(SampleRequest(0, attempt, np.zeros(12, np.float32)))
        measured = measure_tumour(volume.label, grid.spacing_mm, volume.image[0] > 0)
        misses.append(miss(records[0].requested, measured, grid.fov_mm))
    assert records[0].attempt == int(np.argmin(misses))
    assert records[0].within_tolerance is False
    assert records[1].fault == "blank"
    assert telemetry.snapshot()["redrawn"] == 4
    generous = replace(plan, options=replace(plan.options, reject=10.0 * max(misses)))
    records, telemetry = run_all(tiny_bundle, generous, StubSampler(grid.shape), tmp_path / "generous")
    assert [(r.attempt, r.within_tolerance) for r in records] == [(0, True), (0, True)]


def test_an_error_of_writing_ends_the_run_and_takes_back_the_sample(tiny_bundle, plan, tmp_path, monkeypatch) -> None:
    write, written = Folder.write, []

    def full(self: Folder, name: str, data: bytes, **options: bool) -> None:
        if len(written) == 7:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        written.append(name)
        write(self, name, data, **options)

    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(OSError, match="No space"):
        run_all(tiny_bundle, plan, StubSampler(tiny_bundle.manifest.grid.shape), tmp_path / "out", writers=1)
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 5


def test_the_queue_is_bounded(tiny_bundle, plan, tmp_path, monkeypatch) -> None:
    """While the only writer is held up, sampling stops after as many volumes as there are slots."""
    plan = replace(plan, options=replace(plan.options, count=30), resolved=replace(plan.resolved, batch_size=1))
    gate, held = threading.Event(), threading.Event()
    stub = StubSampler(tiny_bundle.manifest.grid.shape)
    measure = Finisher.measure

    def slow(self, task, volume):
        held.set()
        gate.wait()
        return measure(self, task, volume)

    monkeypatch.setattr(Finisher, "measure", slow)
    done: list[SampleRecord] = []
    driver = threading.Thread(
        target=lambda: done.extend(run_all(tiny_bundle, plan, stub, tmp_path / "out", writers=1)[0])
    )
    driver.start()
    held.wait()
    driver.join(0.3)
    assert len(stub.asked) == 3  # one held up, one queued, one waiting for a slot
    gate.set()
    driver.join()
    assert len(done) == 30

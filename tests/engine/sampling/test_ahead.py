"""The mask-first form with its host's work in other processes: the same bytes, bounded, nothing waited for in vain."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sbldm.benchmarks.gpu_proof import proof_requests
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.conditions.columns import blank
from sbldm.engine.errors import IncompleteRunError
from sbldm.engine.model_runs import RunTerminatedError, terminate_model_runs
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling import ahead
from sbldm.engine.sampling.ahead import AheadLoop, batches_ahead, batches_finished
from sbldm.engine.sampling.decoding import NOT_FINITE
from sbldm.engine.sampling.given_masks import GivenMasks
from sbldm.engine.sampling.host import HostLoop
from sbldm.engine.sampling.mask_first import MaskFirstModel
from sbldm.engine.sampling.types import SampleRequest, Volume

from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
Group = Sequence[SampleRequest]


@pytest.fixture(scope="module")
def backend(tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any) -> Any:
    return host_backend(tiny_mask_first_bundle, HostDevice(kernel_folder))


def opened(bundle: Bundle, backend: Any, samples: int) -> HostLoop:
    options = GenerateRequest(bundle=bundle, count=1, steps=2, eta=1.0, guidance=1.0, seed=5).options()
    loop = open_loop(bundle, backend, options, samples)
    assert isinstance(loop, HostLoop)
    return loop


def over(loop: HostLoop, processes: int, masks: GivenMasks | None = None) -> AheadLoop:
    assert isinstance(loop.model, MaskFirstModel)
    return AheadLoop(loop, loop.model, processes, masks)


def groups(bundle: Bundle) -> list[list[SampleRequest]]:
    """A batch of two, one with a mask that is given and a sample whose maps are not finite, a redraw."""
    asked = proof_requests(bundle, 4)
    given = np.zeros(bundle.manifest.grid.shape, np.uint8)
    given[10:16, 12:20, 5:9] = 2
    nan = np.full_like(asked[3].condition, np.nan)
    return [
        asked[:2],
        [replace(asked[2], label=given), replace(asked[3], condition=nan)],
        [replace(asked[1], attempt=1)],
    ]


def finished(loop: AheadLoop, asked: Sequence[Group]) -> list[Volume]:
    """Volumes of groups, as many in flight as may be."""
    flying, coming = [], list[Future[Volume]]()
    for group in asked:
        flying.append(loop.start(group))
        if len(flying) == loop.in_flight:
            coming += flying.pop(0)()
    for collect in flying:
        coming += collect()
    return [volume.result() for volume in coming]


def content(volumes: Sequence[Volume]) -> list[tuple[object, ...]]:
    return [(v.number, v.attempt, v.fault, v.image.tobytes(), v.label.tobytes()) for v in volumes]


@pytest.fixture(scope="module")
def in_process(tiny_mask_first_bundle: Bundle, backend: Any) -> list[Volume]:
    loop = opened(tiny_mask_first_bundle, backend, 2)
    return [volume for group in groups(tiny_mask_first_bundle) for volume in loop.start(group)()]


@pytest.fixture(scope="module")
def two_processes(tiny_mask_first_bundle: Bundle, backend: Any) -> Iterator[AheadLoop]:
    with over(opened(tiny_mask_first_bundle, backend, 2), 2) as loop:
        yield loop
        helpers = list(loop._pool._helpers)
    assert not any(helper.process.is_alive() for helper in helpers)


def test_volumes_are_the_same_bytes(
    tiny_mask_first_bundle: Bundle, two_processes: AheadLoop, in_process: list[Volume]
) -> None:
    assert [volume.fault for volume in in_process].count(NOT_FINITE) == 1
    assert len({volume.image.tobytes() for volume in in_process}) == len(in_process)
    assert content(finished(two_processes, groups(tiny_mask_first_bundle))) == content(in_process)


def test_so_they_are_in_other_batches_in_another_order_by_one_process(
    tiny_mask_first_bundle: Bundle, backend: Any, in_process: list[Volume]
) -> None:
    (_, second), _, redraw = groups(tiny_mask_first_bundle)
    with over(opened(tiny_mask_first_bundle, backend, 3), 1) as loop:
        made = finished(loop, [redraw, [second]])
    assert content(made) == content([in_process[4], in_process[1]])


def test_no_batch_is_begun_beyond_the_bound_and_dropped_ones_make_room(
    tiny_mask_first_bundle: Bundle, two_processes: AheadLoop
) -> None:
    loop, (given, _) = two_processes, groups(tiny_mask_first_bundle)[1]
    group = [replace(given, shares=np.zeros((3, *loop._model.grid.shape), np.float32))]  # a brain that is soon there
    assert loop.in_flight == 1 + batches_ahead(2, 2) == 3
    kept = [loop.start(group) for _ in range(loop.in_flight + 1)]
    another = threading.Thread(target=lambda: kept.append(loop.start(group)), daemon=True)
    another.start()
    another.join(0.2)
    assert len(kept) == loop.in_flight + 1  # it waits
    kept.pop(0)  # never collected
    another.join(10)
    assert len(kept) == loop.in_flight + 1
    assert [volume.result().number for volume in kept[-1]()] == [given.number]
    loop.start(group)  # though what was collected is kept


def test_samples_ahead_are_two_a_process_and_one_is_finished() -> None:
    cases = ((1, 1), (1, 8), (15, 8), (15, 1), (4, 8))
    assert [batches_ahead(*given) for given in cases] == [2, 1, 4, 30, 1]
    assert [batches_finished(*given) for given in cases] == [1, 1, 2, 15, 1]


def test_given_masks_are_those_of_the_samples(
    tiny_mask_first_bundle: Bundle, two_processes: AheadLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = tiny_mask_first_bundle.manifest.grid.shape
    label = np.zeros(shape, np.uint8)
    label[10:16, 12:20, 5:9] = 2
    masks = GivenMasks.of([label, label[::-1]], shape, blank([]))  # type: ignore[arg-type]
    monkeypatch.setattr(two_processes, "_masks", masks)
    (made,) = two_processes.start(proof_requests(tiny_mask_first_bundle, 2)[1:])()
    assert np.array_equal(made.result().label, label[::-1])


def test_waiting_for_a_brain_ends_when_model_runs_are_ended() -> None:
    never: Future[bool] = Future()
    end = threading.Timer(0.05, terminate_model_runs)
    start = time.monotonic()
    end.start()
    with pytest.raises(RunTerminatedError):
        ahead._waited(never)
    assert time.monotonic() - start < 30
    never.set_result(True)
    assert ahead._waited(never)


def test_waiting_for_a_block_ends_when_model_runs_are_ended(
    tiny_mask_first_bundle: Bundle, two_processes: AheadLoop
) -> None:
    loop, (given, _) = two_processes, groups(tiny_mask_first_bundle)[1]
    group = [replace(given, shares=np.zeros((3, *loop._model.grid.shape), np.float32))]
    kept = [loop.start(group) for _ in range(loop._blocks.count)]
    threading.Timer(0.05, terminate_model_runs).start()
    with pytest.raises(RunTerminatedError):
        loop.start(group)
    kept.clear()
    loop._free.put(None)  # left of a wait that was over when it was ended
    assert loop.start(group)


def test_volumes_that_failed_keep_no_block(tiny_mask_first_bundle: Bundle, backend: Any) -> None:
    """Though who asked for them has not looked yet: the next batch must not wait for what never comes."""
    (given, _) = groups(tiny_mask_first_bundle)[1]
    with over(opened(tiny_mask_first_bundle, backend, 1), 1) as loop:
        begun = [loop.start([given]) for _ in range(loop._blocks.count)]
        wait([drawn for collect in begun for drawn in collect.args[2]])  # type: ignore[attr-defined]
        process = psutil.Process(loop._pool._helpers[0].process.pid)
        process.suspend()
        coming = [volume for collect in begun for volume in collect()]
        process.kill()
        assert all(isinstance(volume.exception(), IncompleteRunError) for volume in coming)
        del begun
        following = threading.Thread(target=loop.start, args=([given],), daemon=True)
        following.start()
        following.join(10)
        assert not following.is_alive()

"""In how many processes the host's work of a run is done."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.conditions.columns import blank
from sbldm.engine.run import ahead
from sbldm.engine.run.ahead import dropped_on_error, processes_ahead, reason_with, working_ahead
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.given_masks import GivenMasks, MaskedLoop
from sbldm.engine.sampling.types import RunLoop

from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


def opened(bundle: Bundle, backend: Any, source: GivenMasks | None = None) -> RunLoop:
    return open_loop(bundle, backend, GenerateRequest(bundle=bundle, count=1, steps=2).options(), 2, source)


@pytest.fixture
def staged(tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any) -> RunLoop:
    return opened(tiny_mask_first_bundle, host_backend(tiny_mask_first_bundle, HostDevice(kernel_folder)))


def test_one_a_processor_less_our_own_and_no_more_than_threads(
    staged: RunLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {(1, None): 0, (2, None): 1, (16, None): 15, (16, 4): 3, (16, 1): 0, (2, 8): 1, (96, None): 32}
    for (processors, threads), expected in cases.items():
        monkeypatch.setattr(ahead, "available_threads", lambda processors=processors: processors)
        assert processes_ahead(staged, threads) == expected
    monkeypatch.setattr(ahead, "available_threads", lambda: 16)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert processes_ahead(staged, None) == 0
    assert [reason_with(staged, n) for n in (0, 1)] == [
        "each stage: captured on host",
        "each stage: captured on host; masks, brains and grain in another process",
    ]


def test_none_where_there_is_nothing_for_them(
    tiny_bundle: Bundle,
    tiny_mask_first_bundle: Bundle,
    kernel_folder: Path,
    host_backend: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "available_threads", lambda: 16)
    on_cpu = opened(tiny_mask_first_bundle, choose_backend(tiny_mask_first_bundle, "onnxruntime", threads=1))
    of_slices = opened(tiny_bundle, host_backend(tiny_bundle, HostDevice(kernel_folder)))
    for loop in (on_cpu, of_slices):
        assert processes_ahead(loop, None) == 0
        with working_ahead(loop, 0) as working:
            assert working is loop


def test_masks_that_are_given_go_with_the_loop(
    tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Recorder, "made", made, raising=False)
    monkeypatch.setattr(Recorder, "closed", 0, raising=False)
    monkeypatch.setattr(ahead, "AheadLoop", Recorder)
    masks = GivenMasks(tiny_mask_first_bundle.manifest.grid.shape, (), blank([]))  # type: ignore[arg-type]
    backend = host_backend(tiny_mask_first_bundle, HostDevice(kernel_folder))
    loop = opened(tiny_mask_first_bundle, backend, masks)
    assert isinstance(loop, MaskedLoop)
    with suppress(ZeroDivisionError), working_ahead(loop, 3) as working, dropped_on_error(working):
        assert made == [(loop.loop, loop.loop.model, 3, masks)]
        raise ZeroDivisionError
    assert Recorder.closed == 2  # before what waits for its volumes ends, and at the end


class Recorder:
    """In the place of `AheadLoop`."""

    made: list[tuple[Any, ...]]
    closed: int

    def __init__(self, *given: Any) -> None:
        Recorder.made.append(given)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        Recorder.closed += 1


def test_where_no_memory_can_be_shared_the_work_stays_in_this_process(
    staged: RunLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("sbldm.engine.portable.os.memfd_create")
    with caplog.at_level(logging.WARNING, "sbldm"), working_ahead(staged, 2) as working:
        assert working is staged
    assert "masks and brains are drawn in this process" in caplog.text

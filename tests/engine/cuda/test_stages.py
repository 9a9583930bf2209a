"""The mask-first form on a device: its two samplings there, on the CPU's stand-in for a GPU."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.device import GraphError
from sbldm.engine.cuda.footprint import default_samples, footprint
from sbldm.engine.cuda.replay_trial import trial
from sbldm.engine.cuda.shapes import STAGES
from sbldm.engine.run.description import read_description
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.preview import read_scan
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.host import HostLoop
from sbldm.engine.sampling.mask_first import MaskFirstModel
from sbldm.engine.sampling.types import RunLoop, SampleRequest

from tests.support import pool_work
from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


class Graphless(HostDevice):
    """A device that captures nothing."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        raise GraphError("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


def opened(bundle: Bundle, backend: Any, samples: int, guidance: float = 1.0) -> HostLoop:
    options = GenerateRequest(bundle=bundle, count=1, steps=2, eta=1.0, guidance=guidance, seed=5).options()
    loop: RunLoop = open_loop(bundle, backend, options, samples)
    assert isinstance(loop, HostLoop)
    return loop


def masked(bundle: Bundle, number: int) -> SampleRequest:
    """A request whose mask is given: a ball."""
    x, y, z = np.ogrid[:32, :32, :16]
    label = ((x - 14) ** 2 + (y - 16) ** 2 + (2 * (z - 8)) ** 2 < 30 + 10 * number).astype(np.uint8) * 2
    columns = len(bundle.manifest.condition_columns)
    return SampleRequest(number, number, np.zeros(columns, np.float32), label=label)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_each_stage_is_one_graph_that_computes_what_the_host_does(
    tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any, guidance: float
) -> None:
    bundle, device = tiny_mask_first_bundle, HostDevice(kernel_folder)
    loop = opened(bundle, host_backend(bundle, device), 2, guidance)
    assert (loop.kind, loop.reason) == ("graph", "each stage: captured on host")
    on_host = opened(bundle, choose_backend(bundle, "onnxruntime", threads=1), 2, guidance)
    assert on_host.kind == "host"
    requests = [masked(bundle, number) for number in (3, 2)]
    device.log.clear()
    np.testing.assert_allclose(loop.latents(requests), on_host.latents(requests), atol=2e-4)
    assert device.log.count("replay") == 1
    assert "capture" not in device.log
    batch = loop.batch([masked(bundle, number) for number in (0, 1)])
    np.testing.assert_allclose(
        loop.model.maps(loop.run, batch, None), on_host.model.maps(on_host.run, batch, None), rtol=1e-4, atol=2e-3
    )
    assert device.log.count("replay") == 2


def test_plain_launches_and_other_batches_give_the_same_bytes(
    tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any
) -> None:
    bundle = tiny_mask_first_bundle
    requests = [masked(bundle, number) for number in range(2)]
    loop = opened(bundle, host_backend(bundle, HostDevice(kernel_folder)), 2)
    whole = loop.latents(requests)
    assert loop.latents(requests[1:])[0].tobytes() == whole[1].tobytes()
    plain = opened(bundle, host_backend(bundle, Graphless(kernel_folder)), 2)
    assert plain.kind == "launches"
    assert "CAPTURE_UNSUPPORTED" in plain.reason
    assert plain.latents(requests).tobytes() == whole.tobytes()


def test_the_table_is_what_the_stages_allocate_and_decides_the_batch(
    tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any
) -> None:
    bundle = tiny_mask_first_bundle
    for samples, guidance in ((1, 1.0), (3, 2.0)):
        device = HostDevice(kernel_folder)
        loop = opened(bundle, host_backend(bundle, device), samples, guidance)
        table = footprint(bundle, samples, guidance != 1.0)
        free, total = device.memory()
        assert sum(table.buffers.values()) == total - free
        assert "mask_denoiser: prediction" in table.table()
        del loop
    assert [default_samples(bundle, False, memory) for memory in (2**40, 1)] == [8, 1]


def test_a_trial_of_replaying_tells_the_denoiser_what_it_asks_for(
    tiny_mask_first_bundle: Bundle, kernel_folder: Path, host_backend: Any
) -> None:
    device = HostDevice(kernel_folder)
    networks = host_backend(tiny_mask_first_bundle, device).loops.networks
    for stage in STAGES:
        denoiser = networks.component(stage)
        assert trial(device, [denoiser, denoiser], tiny_mask_first_bundle, device.stream(), stage) is None


def test_a_run_on_the_device_is_that_of_the_cpu(
    tiny_mask_first_bundle: Bundle,
    tmp_path: Path,
    kernel_folder: Path,
    host_backend: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Volumes as asked for to the voxel. A process beside it that dies ends it, and what goes on makes the very bytes,
    with such processes and without."""
    bundle, table = tiny_mask_first_bundle, tmp_path / "cond.csv"
    table.write_text("volume_ml,x\n21.3,0.45\n30,0.4\n12,0.6\n")

    def generate(out: str, *more: str) -> int:
        fixed = ["generate", "--bundle", str(bundle.path), "--quiet", "--conditions", str(table)]
        return main([*fixed, "--steps", "2", "--batch-size", "2", "--out", str(tmp_path / out), *more])

    assert generate("cpu", "--threads", "1") == 0
    for module in ("job", "open_loop"):
        monkeypatch.setattr(
            f"sbldm.engine.run.{module}.choose_backend",
            lambda *_, **_named: host_backend(bundle, HostDevice(kernel_folder)),
        )
    monkeypatch.setattr("sbldm.engine.run.ahead.available_threads", lambda: 3)
    with monkeypatch.context() as patch:
        patch.setattr("sbldm.engine.sampling.ahead.draw_case", pool_work.die)
        assert generate("gpu", "--device", "cuda") == 5
    assert "exit status -9" in capsys.readouterr().err
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "gpu").rglob("*.nii.gz"))
    with monkeypatch.context() as patch:
        patch.setattr(MaskFirstModel, "draft", None)  # nothing is drawn in this process
        assert generate("gpu", "--device", "cuda", "--resume") == 0
    run = read_description(tmp_path / "gpu")
    assert run.loop is not None
    assert run.loop.reason == "each stage: captured on host; masks, brains and grain in 2 other processes"
    assert (run.resolved.device, run.loop.kind) == ("cuda", "graph")
    layout = run.layout()
    for k in range(3):
        ours, theirs = (read_scan(tmp_path / name, layout, k) for name in ("gpu", "cpu"))
        assert np.count_nonzero(ours.label) == np.count_nonzero(theirs.label)
        assert np.mean(ours.label != theirs.label) < 0.01
    made = {path.name: path.read_bytes() for path in (tmp_path / "gpu").rglob("*.nii.gz")}
    (tmp_path / "gpu" / "sbldm-000002" / "sbldm-000002_t1.nii.gz").unlink()
    assert generate("gpu", "--device", "cuda", "--resume", "--threads", "1") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "gpu").rglob("*.nii.gz")} == made

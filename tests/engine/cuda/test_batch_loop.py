"""Whole jobs whose sampling loop runs on a device: the CPU's stand-in for a GPU, under the same interface."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.device import GraphError
from sbldm.engine.cuda.footprint import footprint
from sbldm.engine.errors import DeviceMemoryError
from sbldm.engine.generator import Generator
from sbldm.engine.run.description import read_description
from sbldm.engine.run.ledger import LedgerIndex
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.preview import read_scan
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.decoding import NOT_FINITE

from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")

ROWS = "volume_ml,x\n20,0.4\n30,0.5\n20,0.64\n25,0.45\n30,0.5\n"


class Graphless(HostDevice):
    """A device that captures nothing."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        raise GraphError("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


@pytest.fixture
def on_device(tiny_bundle: Bundle, host_backend: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes `--device cuda` the given device, opened anew by every command."""

    def use(device: Callable[[], HostDevice], *networks: Any) -> None:
        def choose(*_: Any, **_named: Any) -> Any:
            return host_backend(tiny_bundle, device(), *networks)

        for module in ("job", "open_loop"):
            monkeypatch.setattr(f"sbldm.engine.run.{module}.choose_backend", choose)

    return use


def generate(bundle: Bundle, out: Path, *arguments: object) -> int:
    table = out.parent / "cond.csv"
    table.write_text(ROWS)
    fixed = ["generate", "--bundle", bundle.path, "--threads", 1, "--quiet", "--out", out, "--conditions", table]
    return main([str(a) for a in (*fixed, "--steps", 2, "--eta", 1, "--seed", 5, *arguments)])


def small(bundle: Bundle) -> int:
    """Memory that holds the weights and a few samples."""
    return footprint(bundle, 4, guided=False).networks["weights"] + 400_000


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.rglob("*.nii.gz")}


def assert_same_volumes(a: Path, b: Path, samples: int) -> None:
    layout = read_description(a).layout()
    for k in range(samples):
        ours, theirs = read_scan(a, layout, k), read_scan(b, layout, k)
        np.testing.assert_array_equal(ours.label, theirs.label)
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1


def test_a_run_on_the_device_is_that_of_the_cpu(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, on_device: Callable[..., None]
) -> None:
    """With redraws; a sample alone, a resumed run and plain launches give the very bytes."""
    asked = ("--batch-size", 2, "--guidance", 2, "--reject", 0.1, "--attempts", 1)
    assert generate(tiny_bundle, tmp_path / "cpu", *asked) == 0
    assert read_description(tmp_path / "cpu").loop.kind == "host"
    on_device(lambda: HostDevice(kernel_folder))
    assert generate(tiny_bundle, tmp_path / "graph", *asked, "--device", "cuda") == 0
    run = read_description(tmp_path / "graph")
    assert (run.resolved.device, run.loop.kind, run.loop.reason) == ("cuda", "graph", "captured on host")
    assert_same_volumes(tmp_path / "graph", tmp_path / "cpu", 5)
    attempts = [
        [record.attempt for record in LedgerIndex.of(tmp_path / name).records(range(5))] for name in ("cpu", "graph")
    ]
    assert attempts[0] == attempts[1]
    made = files(tmp_path / "graph")
    assert generate(tiny_bundle, tmp_path / "alone", *asked, "--device", "cuda", "--samples", "3") == 0
    assert files(tmp_path / "alone").items() < made.items()
    on_device(lambda: Graphless(kernel_folder))
    assert generate(tiny_bundle, tmp_path / "alone", *asked, "--device", "cuda", "--resume") == 0
    assert files(tmp_path / "alone") == made


def test_a_device_that_captures_nothing_says_so(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, on_device: Callable[..., None], capsys: Any
) -> None:
    on_device(lambda: Graphless(kernel_folder))
    assert generate(tiny_bundle, tmp_path / "out", "--count", 1, "--device", "cuda", "--batch-size", 1) == 0
    assert "plain launches: host captures no graph: cuStreamEndCapture" in capsys.readouterr().err
    loop = read_description(tmp_path / "out").loop
    assert (loop.kind, loop.refused_batch_size) == ("launches", None)


def test_a_batch_that_does_not_fit_is_halved_recorded_and_resumed(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, on_device: Callable[..., None], capsys: Any
) -> None:
    on_device(lambda: HostDevice(kernel_folder, memory=small(tiny_bundle)))
    asked = ("--count", 3, "--device", "cuda", "--batch-size", 32)
    assert generate(tiny_bundle, tmp_path / "out", *asked, "--samples", "0") == 0
    run = read_description(tmp_path / "out")
    assert run.resolved.batch_size < 32
    assert run.loop.refused_batch_size == 32
    assert "batch size 32 does not fit: a batch of 32 needs more than" in capsys.readouterr().err
    assert generate(tiny_bundle, tmp_path / "out", *asked, "--resume") == 0
    on_device(lambda: HostDevice(kernel_folder, memory=10_000))
    assert generate(tiny_bundle, tmp_path / "none", *asked) == 4
    assert "batch size 1 does not fit" in capsys.readouterr().err


def test_shards_on_equal_cards_agree(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, on_device: Callable[..., None]
) -> None:
    """On the batch size, which they choose by themselves, and so on the bytes of a run that is not sharded."""
    room = footprint(tiny_bundle, 4, guided=False).total * 2
    on_device(lambda: HostDevice(kernel_folder, memory=room))
    asked = ("--device", "cuda", "--steps", 1)
    parts = [tmp_path / f"{k}" for k in range(2)]
    for k, part in enumerate(parts):
        assert generate(tiny_bundle, part, *asked, "--shard", f"{k}/2") == 0
    assert {read_description(part).resolved.batch_size for part in parts} == {4}
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "merged")]) == 0
    assert generate(tiny_bundle, tmp_path / "whole", *asked) == 0
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


def test_nan_fails_its_sample_and_the_run_goes_on(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, on_device: Callable[..., None], host_networks: Any
) -> None:
    class Spoilt(host_networks):
        """The denoiser returns NaN for tumours far to the right."""

        def component(self, name: str) -> Any:
            found = super().component(name)
            if name == "denoiser":
                inner = found._network
                found._network = SpoiltNetwork(inner)
            return found

    class SpoiltNetwork:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def enqueue(self, inputs: Any, outputs: Any, stream: Any) -> None:
            self.inner.enqueue(inputs, outputs, stream)
            far = inputs["condition"].owner[:, 3] > 0.8
            outputs["prediction"].owner[far] = np.nan

    on_device(lambda: HostDevice(kernel_folder))
    asked = ("--device", "cuda", "--batch-size", 4)
    assert generate(tiny_bundle, tmp_path / "whole", *asked) == 0
    on_device(lambda: HostDevice(kernel_folder), Spoilt)
    assert generate(tiny_bundle, tmp_path / "out", *asked) == 5
    faults = {record.sample: record.fault for record in LedgerIndex.of(tmp_path / "out").records(range(5))}
    assert faults == {0: None, 1: None, 2: NOT_FINITE, 3: None, 4: None}
    assert files(tmp_path / "out").items() < files(tmp_path / "whole").items()


def test_the_python_interface_keeps_its_loop(tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any) -> None:
    device = HostDevice(kernel_folder)
    with (
        Generator(tiny_bundle, host_backend(tiny_bundle, device), batch_size=2) as on_device,
        Generator.load(tiny_bundle.path, threads=1, batch_size=2) as on_cpu,
    ):
        made = list(on_device.generate(3, seed=2, steps=2))
        for ours, theirs in zip(made, on_cpu.generate(3, seed=2, steps=2), strict=True):
            np.testing.assert_array_equal(ours.label, theirs.label)
            assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1
        found: list[np.ndarray] = []
        other = threading.Thread(target=lambda: found.append(on_device.sample(1, seed=2, steps=2).image))
        other.start()
        other.join()
        np.testing.assert_array_equal(found[0], made[1].image)
        assert device.log.count("capture") == 2  # one a batch in flight, whatever was asked for since


def test_a_generator_halves_too(tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any) -> None:
    backend = host_backend(tiny_bundle, HostDevice(kernel_folder, memory=small(tiny_bundle)))
    generator = Generator(tiny_bundle, backend, batch_size=32)
    with pytest.warns(RuntimeWarning) as told:
        assert generator.sample(0, steps=1).fault is None
    assert "batch size 32 does not fit" in str(told[0].message)


def test_the_loop_is_opened_for_a_batch_size_and_its_memory_goes_with_the_next(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any
) -> None:
    device = HostDevice(kernel_folder)
    backend = host_backend(tiny_bundle, device)
    options = GenerateRequest(bundle=tiny_bundle, count=1, steps=1).options()
    small = host_backend(tiny_bundle, HostDevice(kernel_folder, memory=400_000))
    with pytest.raises(DeviceMemoryError, match="batch size 4096 does not fit"):
        open_loop(tiny_bundle, small, options, 4096)
    left = []
    for size in (4, 1, 4):
        loop = open_loop(tiny_bundle, backend, options, size)
        assert (loop.kind, loop.options.batch_size, loop.in_flight) == ("graph", size, 2)
        del loop
        left.append(device._left)
    assert left[0] == left[2] < left[1]

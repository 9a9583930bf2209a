"""The items of `gpu_check` that drive the loop, on the stand-in device: their code runs, their figures mean nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sbldm.benchmarks import gpu_items
from sbldm.engine.bundle.load import Bundle

from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


def test_the_items_of_the_loop_run(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = HostDevice(kernel_folder)

    def parts(*_: Any) -> tuple[Any, Any]:
        streams = (device.stream(), device.stream())
        return streams, host_backend(tiny_bundle, device).loops._networks.components(1, streams)

    monkeypatch.setattr(gpu_items, "_gpu", lambda options: device)
    monkeypatch.setattr(gpu_items, "_components", parts)
    monkeypatch.setattr(gpu_items, "choose_backend", lambda *_, **__: host_backend(tiny_bundle, device))
    monkeypatch.setattr(gpu_items, "milliseconds", lambda device, stream, work: work() or 1.0)
    monkeypatch.setattr(gpu_items, "wall_milliseconds", lambda work: 2.0 if work() else 0.0)
    monkeypatch.setattr(gpu_items, "capture_refusal", lambda bundle, index: None)
    monkeypatch.setattr(gpu_items, "BATCHES", (1,))
    options = gpu_items.Options(0, str(tiny_bundle.path), 1)
    assert gpu_items.capture(options) == {"loop": "graph", "reason": "captured on host"}
    parity = gpu_items.against_cpu_engine(options)
    assert parity["latent_rms"] < 1e-5
    assert parity["label_dice"] == 1.0
    times = gpu_items.loop_time(options)
    assert (times["graph_batch_1_ms"], times["plain_batch_1_ms"]) == (1.0, 1.0)
    assert gpu_items.tensorrt(options)["volumes_batch_1_ms"] == 2.0

"""The trial that decides about replaying ONNX Runtime's denoiser, on the stand-in device, and what ends its process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.device import Launching
from sbldm.engine.cuda.replay_refusal import outcome
from sbldm.engine.cuda.replay_trial import trial

from tests.support.host_device import HostDevice


class Stale:
    """A network whose second run and all later ones are its first again, as a graph of other buffers' would be."""

    launching = Launching("graphs", "")

    def __init__(self, network: Any) -> None:
        self.network, self.runs, self.made = network, 0, b""

    def enqueue(self, inputs: Any, outputs: Any, stream: Any) -> None:
        self.network.enqueue(inputs, outputs, stream)
        values = outputs["prediction"].owner
        self.runs += 1
        if self.runs == 1:
            self.made = values.tobytes()
        values[:] = np.frombuffer(self.made, values.dtype).reshape(values.shape)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
@pytest.mark.parametrize(
    ("replaying", "reason"), [(lambda network: network, None), (Stale, "other states than its launches")]
)
def test_a_replay_must_give_the_bytes_of_its_launches(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any, replaying: Any, reason: str | None
) -> None:
    here = HostDevice(kernel_folder)
    denoiser = host_backend(tiny_bundle, here).loops.networks.component("denoiser")
    found = trial(here, [denoiser, replaying(denoiser)], tiny_bundle, here.stream())
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("pass", None),
        ("import os; os.abort()", "by SIGABRT"),
        ("import sys; print('no such capture'); sys.exit(3)", "no such capture"),
        ("import sys; sys.exit('the NVIDIA driver sees no GPU')", "a trial failed: the NVIDIA driver sees no GPU"),
    ],
)
def test_how_a_trial_ends_is_told(script: str, told: str | None) -> None:
    found = outcome([sys.executable, "-c", script])
    assert found is None if told is None else told in str(found)


def test_a_trial_that_cannot_be_started_is_a_refusal(tmp_path: Path) -> None:
    assert "could not be made" in str(outcome([str(tmp_path / "nowhere")]))

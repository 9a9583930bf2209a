"""The trial that decides about capturing ONNX Runtime's denoiser, on the stand-in device, and what ends its process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.capture_trial import outcome, trial
from sbldm.engine.cuda.device import GraphError

from tests.support.host_device import HostDevice


class Graphless(HostDevice):
    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        raise GraphError("cuStreamEndCapture: OTHER")


class Forgetful(HostDevice):
    """Replays all but the last launch."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        return super().capture(stream, work)[:-1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
@pytest.mark.parametrize(
    ("device", "reason"), [(HostDevice, None), (Graphless, "OTHER"), (Forgetful, "other latents than its launches")]
)
def test_a_replay_must_give_the_bytes_of_its_launches(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any, device: type[HostDevice], reason: str | None
) -> None:
    here = device(kernel_folder)
    denoiser = host_backend(tiny_bundle, here).loops._networks.component("denoiser")
    found = trial(here, denoiser, tiny_bundle, here.stream())
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

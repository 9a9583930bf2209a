"""Why ONNX Runtime's own CUDA graphs are not to be used on a GPU: found out in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

from ..bundle.load import Bundle

REFUSED = 3  # exit status of a trial that says why on stdout
_TRIAL = f"{__package__}.replay_trial"
_TIMEOUT_S = 600


def replay_refusal(bundle: Bundle, index: int, precision: str) -> str | None:
    """Why the denoiser of a bundle is not to be replayed on GPU `index`; None where a trial went well."""
    return outcome([sys.executable, "-m", _TRIAL, str(bundle.path), str(index), precision])


def outcome(command: Sequence[str]) -> str | None:
    """What came of a trial's process: None, what it said, or how it ended."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a trial could not be made: {error}"
    if done.returncode == 0:
        return None
    if done.returncode == REFUSED:
        return done.stdout.strip()
    if done.returncode < 0:
        return f"replaying it ended a trial process by {signal.Signals(-done.returncode).name}"
    said = done.stderr.strip().splitlines()
    return f"a trial failed: {said[-1] if said else f'exit status {done.returncode}'}"

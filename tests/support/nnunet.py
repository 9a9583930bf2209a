"""nnU-Net's own tools in a process that imports nnU-Net once."""

from __future__ import annotations

import os
import subprocess
import sys

FORKED = """
import multiprocessing
_forked = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda _method=None: _forked  # not a Python that imports everything for each of its steps
"""


def by_nnunet(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that uses nnU-Net; its output is kept as text."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", FORKED + program]
    return subprocess.run(command, env=found, capture_output=True, text=True, check=False)

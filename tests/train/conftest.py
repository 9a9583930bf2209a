"""One thread for PyTorch: at these sizes faster than two, and far faster beside other work.

Its parallel loops end in barriers that spin; where another process holds the core of one thread, each of them waits
for a time slice. That is how a test of a second came to stand still for minutes.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)

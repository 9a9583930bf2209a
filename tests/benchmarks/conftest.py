"""One thread for PyTorch, for the reason that tests/train/conftest.py gives."""

from __future__ import annotations

from contextlib import suppress

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    with suppress(ImportError):
        import torch

        torch.set_num_threads(1)

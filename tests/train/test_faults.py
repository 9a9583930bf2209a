"""Memory that runs out and processes that end have their exit code and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sbldm.engine.errors import IncompleteRunError
from sbldm.train.faults import machine_faults
from sbldm.train.ranks import LastWords
from torch.distributed import DistNetworkError


def alone(directory: Path) -> LastWords:
    return LastWords(directory, 0, 1)


def test_memory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """PyTorch's own allocator refuses: no machine has as much."""
    with pytest.raises(IncompleteRunError, match="lower the stage's batch_size"), machine_faults(alone(tmp_path)):
        torch.empty(2**50)
    assert IncompleteRunError.exit_code == 5


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("Out of memory"),
    ],
)
def test_every_allocator_is_known(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(IncompleteRunError, match="goes on from the last checkpoint"), machine_faults(alone(tmp_path)):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        DistNetworkError("The server socket has failed to listen on any local network address."),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5124"),
    ],
)
def test_a_process_beside_that_ended_is_told(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(IncompleteRunError, match="a process that trains beside this one ended"),
        machine_faults(alone(tmp_path)),
    ):
        raise error


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), machine_faults(alone(tmp_path)):
        raise RuntimeError("shapes do not match")

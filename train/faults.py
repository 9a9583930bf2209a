"""What memory and other processes do to a training, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed import DistError

from ..engine.errors import IncompleteRunError
from .ranks import LastWords

GOES_ON = "the same command goes on from the last checkpoint"
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # words of the allocators of PyTorch
NO_PEER = ("connection closed by peer", "connection reset by peer", "connection refused")  # of gloo


@contextmanager
def machine_faults(ranks: LastWords) -> Iterator[None]:
    """Errors of memory and of other processes inside, as errors of ours; any other passes.

    Of several processes each leaves its error for the others.

    Raises:
        IncompleteRunError: there is no memory for a step, or a process that trains beside this one ended.
    """
    directory = ranks.directory
    try:
        with ranks:
            yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _no_memory(directory) from error
    except RuntimeError as error:
        said = str(error).lower()
        if any(words in said for words in NO_MEMORY):
            raise _no_memory(directory) from error
        if isinstance(error, DistError) or any(words in said for words in NO_PEER):
            told = "\n".join(ranks.of_others()) or "it left no message, as one that was killed"
            raise IncompleteRunError(
                f"{directory}: a process that trains beside this one ended or cannot be reached; {GOES_ON}\n{told}"
            ) from error
        raise


def _no_memory(directory: Path) -> IncompleteRunError:
    return IncompleteRunError(
        f"{directory}: no memory left for a step; lower the stage's batch_size in the preset, or make room; {GOES_ON}"
    )

"""Whether a batch fits into memory, told before anything is written."""

from __future__ import annotations

import sys
from math import prod

from ..bundle.load import Bundle
from ..errors import UsageError
from ..portable import free_memory
from ..processor import cgroup_memory
from ..sampling.model import model_of


def require_memory(bundle: Bundle, batch_size: int) -> None:
    """UsageError where the arrays of a batch alone, without any network, need more than this process can have."""
    manifest = bundle.manifest
    voxels = prod(manifest.grid.shape)
    volume = voxels * (2 * len(manifest.modalities) + 1)  # int16 images, uint8 labels
    each = volume + model_of(manifest).working_bytes
    free = min(free_memory(), cgroup_memory() or sys.maxsize)
    if batch_size * each > free:
        raise UsageError(
            f"--batch-size {batch_size}: needs more than {batch_size * each / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free here; give at most {max(free // each, 1)}"
        )

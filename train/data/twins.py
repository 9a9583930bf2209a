"""Cases that are one patient under two names, found by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...engine.errors import InvalidInputError
from ...engine.screen import counted
from .cohort import MAX_FAULTS_SHOWN, CachedCase, Cohort


def refuse_twins(held_out: Cohort, training: Cohort, where: str, advice: str) -> None:
    """Check that no held-out case has the images, or the mask, of a training case, voxel by voxel on the grid.

    Raises:
        InvalidInputError: between `where` and `advice`, names of the first of them, each with the training case.
    """
    found = list(_twins(held_out, training))
    if found:
        more = [f"  and {len(found) - MAX_FAULTS_SHOWN} more"] if len(found) > MAX_FAULTS_SHOWN else []
        listed = [f"  {name} is {other}, or has its images or mask" for name, other in found[:MAX_FAULTS_SHOWN]]
        told = f"{where}: {counted(len(found), 'held-out case')} also in training:"
        raise InvalidInputError("\n".join([told, *listed, *more, advice]))


def contents(entry: CachedCase) -> tuple[str, str]:
    """sha256 of a prepared case's images, and of its mask: equal for equal ones whatever the case is called.

    Where the mask is empty, as those of all healthy scans are, the images stand for it.
    """
    state = entry.path.stat()
    return _contents(entry.path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _contents(path: Path, size: int, written_ns: int) -> tuple[str, str]:
    """Of the array in a file; size and time of writing tell one file of that name from the next."""
    del size, written_ns
    stored = np.load(path, mmap_mode="r")
    mask, told = stored[:, -1], _digest(stored[:, :-1])
    return told, _digest(mask) if mask.any() else told


def _digest(values: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _twins(held_out: Cohort, training: Cohort) -> Iterator[tuple[str, str]]:
    """Names of each held-out case that has a twin, and of that; files are read of cases that are measured alike."""
    alike: dict[bytes, list[CachedCase]] = {}
    for entry in training.entries:
        for measured in _measured(entry):
            alike.setdefault(measured, []).append(entry)
    for entry in held_out.entries:
        others = [other for measured in _measured(entry) for other in alike.get(measured, ())]
        twin = next((other for other in others if not set(contents(entry)).isdisjoint(contents(other))), None)
        if twin is not None:
            yield entry.name, twin.name


def _measured(entry: CachedCase) -> tuple[bytes, bytes]:
    """What equal images and equal masks have in common without being read."""
    return np.array(entry.scales).tobytes(), np.array(entry.conditions).tobytes()

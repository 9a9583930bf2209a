"""Equal blocks of arrays that several processes have at once."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Mapping
from math import prod
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .portable import nameless_memory

Fields = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and type of each array of a block, by name."""

_ALIGNMENT = 64  # bytes


class SharedBlocks:
    """`count` blocks of zeros, in memory without a name: nothing is left of it, however its processes end.

    As an argument of a process that is started it is the same memory there.

    Raises:
        OSError: the system has no such memory.
    """

    def __init__(self, fields: Fields, count: int, descriptor: int | None = None) -> None:
        """`descriptor` is that of memory that is there already; it is owned from now on."""
        self.count, self._fields = count, dict(fields)
        self._size = sum(_bytes(*field) for field in self._fields.values())  # of a block
        self._descriptor = nameless_memory(self.nbytes) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        self._memory = mmap.mmap(self._descriptor, self.nbytes)

    @property
    def nbytes(self) -> int:
        """Of all blocks."""
        return self.count * self._size

    def arrays(self, number: int) -> dict[str, NDArray[Any]]:
        """Those of a block, by name."""
        found, at = {}, number * self._size
        for name, (shape, dtype) in self._fields.items():
            found[name] = np.ndarray(shape, dtype, self._memory, at)
            at += _bytes(shape, dtype)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self._fields, self.count, DupFd(self._descriptor))


def _opened(fields: Fields, count: int, descriptor: Any) -> SharedBlocks:
    return SharedBlocks(fields, count, descriptor.detach())


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    """That an array takes, so that the next one is aligned."""
    return -(-prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT

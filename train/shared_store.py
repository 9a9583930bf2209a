"""Memory-mapped arrays of a whole cohort that processes fill together, each its share of the cases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from numpy.typing import NDArray

from ..engine.errors import InvalidInputError
from .checkpoint import write_json
from .data.cohort import Share

Progress = Callable[[int, int], None]  # cases done, cases in all


def filled(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    key: Mapping[str, object],
    encode: Callable[[int], Sequence[NDArray[Any]]],
    fabric: Fabric,
    progress: Progress,
    *,
    begin: Callable[[], None] = lambda: None,
    finish: Callable[[], None] = lambda: None,
    dtype: type[np.generic] = np.float16,
) -> tuple[NDArray[Any], ...]:
    """Arrays (cases, ...) of what `encode` gives of each case, or what was stored under the same key before.

    Every process has to call it; the first alone calls `begin` before any case is encoded and `finish` after all are.
    In the end `key.json` says what the arrays are of, so that those which were filled in part are filled again.

    Args:
        folder: where they lie, memory-mapped.
        shapes: file name -> shape, in the order of what `encode` gives.

    Raises:
        OSError: there is no room.
    """
    stamp, paths = folder / "key.json", [folder / name for name in shapes]
    whole = stamp.is_file() and all(path.is_file() for path in paths)
    if not fabric.broadcast(whole and json.loads(stamp.read_text()) == key):
        if fabric.is_global_zero:
            stamp.unlink(missing_ok=True)
            begin()
            for path, shape in zip(paths, shapes.values(), strict=True):
                new_array(path, shape, dtype).flush()
        fabric.barrier()
        stores = [np.load(path, mmap_mode="r+") for path in paths]
        cases = Share(fabric.global_rank, fabric.world_size).part(range(len(stores[0])))
        for done, case in enumerate(cases, start=1):
            for store, encoded in zip(stores, encode(case), strict=True):
                store[case] = encoded
            progress(done, len(cases))
        for store in stores:
            store.flush()
        fabric.barrier()
        if fabric.is_global_zero:
            finish()
            write_json(stamp, key)
        fabric.barrier()
    return tuple(np.load(path, mmap_mode="r") for path in paths)


def new_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic] = np.float16) -> np.memmap:
    """A memory-mapped file whose room on the disk is taken: a page that finds none would kill the process.

    Raises:
        OSError: there is no room.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def read_beside(folder: Path, name: str) -> Any:
    """What was kept beside the arrays under this name.

    Raises:
        InvalidInputError: nothing, the cohort was encoded by an earlier version or not at all.
    """
    path = folder / name
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: missing; train the stage denoiser, which encodes the cohort") from error

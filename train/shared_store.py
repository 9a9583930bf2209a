"""A memory-mapped array of a whole cohort that processes fill together, each its share of the cases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from numpy.typing import NDArray

from .checkpoint import write_json
from .data.cohort import Share

Progress = Callable[[int, int], None]  # cases done, cases in all


def filled(
    array: Path,
    shape: tuple[int, ...],
    key: Mapping[str, object],
    encode: Callable[[int], NDArray[np.floating]],
    fabric: Fabric,
    progress: Progress,
    finish: Callable[[NDArray[np.float16]], None] = lambda store: None,
    begin: Callable[[], None] = lambda: None,
) -> NDArray[np.float16]:
    """What `encode` gives of each case, (cases, ...), or what was stored under the same key before.

    Every process has to call it. `begin` is called before the first case and `finish` gets the whole array, both in
    the first process alone; then `key.json` beside it says what it is of, so that an array which was filled in part is
    filled again.

    Raises:
        OSError: there is no room.
    """
    stamp = array.with_name("key.json")
    current = array.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == key
    if not fabric.broadcast(current):
        if fabric.is_global_zero:
            stamp.unlink(missing_ok=True)
            begin()
            new_array(array, shape).flush()
        fabric.barrier()
        store, cases = (
            np.load(array, mmap_mode="r+"),
            Share(fabric.global_rank, fabric.world_size).part(range(shape[0])),
        )
        for done, case in enumerate(cases, start=1):
            store[case] = encode(case)
            progress(done, len(cases))
        store.flush()
        fabric.barrier()
        if fabric.is_global_zero:
            finish(np.load(array, mmap_mode="r"))
            write_json(stamp, key)
        fabric.barrier()
    return np.load(array, mmap_mode="r")


def new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped float16 file whose room on the disk is taken: a page that finds none would kill the process.

    Raises:
        OSError: there is no room.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array

"""Phantoms as a directory of NIfTI files in BraTS layout."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from isal import igzip
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from ...engine.anatomy.anatomies import TRAINING
from ...engine.errors import IncompleteRunError, UsageError
from ...engine.files import write_atomic
from ...engine.processes import end_with_parent, sharing_workers
from .case import MODALITIES, Phantom, make_phantom

# voxel to mm of BraTS's files, stored LPS
BRATS_AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)
DESCRIPTION = b"SYNTHETIC sbldm-engine phantom"  # NIfTI's descrip
_FILE_LABELS = np.array([0, 1, 2, 4], np.uint8)
_COMPRESSION = 1


def case_name(case: int) -> str:
    """Name of a case's folder and the stem of its files."""
    return f"phantom-{case:05d}"


def write_cohort(
    out: Path,
    count: int,
    seed: int,
    workers: int,
    progress: Callable[[int], None] | None = None,
    *,
    anatomies: Sequence[int] = TRAINING,
) -> None:
    """Write cases 0 to count - 1 of cohort `seed` under `out`, byte-identical whatever `count` and `workers`.

    Every case is made on one of `anatomies` (numbers of `anatomies.load_anatomy`).

    `progress` gets the number of finished cases. Raises UsageError if `count` or `workers` is below 1, `seed` is
    negative, or `out` holds files or cannot be written; IncompleteRunError if the disk fills up on the way.
    """
    for name, value, least in (("--count", count, 1), ("--workers", workers, 1), ("--seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name} {value}: has to be {least} or more")
    _prepare(out)
    workers = sharing_workers(min(workers, count))
    if workers == 1:
        for case in range(count):
            write_case(out, seed, case, anatomies)
            _report(progress, case + 1)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stop,))
    try:
        pending = [pool.submit(_write_case_unless_stopped, out, seed, case, anatomies) for case in range(count)]
        for done, future in enumerate(as_completed(pending), start=1):
            future.result()
            _report(progress, done)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def write_case(out: Path, seed: int, case: int, anatomies: Sequence[int] = TRAINING) -> None:
    """Make a phantom and write its five files; each appears whole or not at all.

    Raises IncompleteRunError if a file cannot be written.
    """
    name = case_name(case)
    folder = out / name
    volumes = encoded(make_phantom(seed, case, anatomies))
    try:
        folder.mkdir(exist_ok=True)
        for kind, data in volumes.items():
            write_atomic(folder / f"{name}_{kind}.nii.gz", igzip.compress(data, _COMPRESSION, mtime=0), sync=False)
    except OSError as error:
        raise IncompleteRunError(
            f"{folder}: cannot be written ({error.strerror}); files already there are whole, make the cohort anew"
        ) from error


def encoded(phantom: Phantom) -> dict[str, bytes]:
    """The NIfTI-1 files of a phantom, not compressed: its modalities, then `seg`."""
    images = {name: _nifti(phantom.image[index]) for index, name in enumerate(MODALITIES)}
    return {**images, "seg": _nifti(_FILE_LABELS[phantom.label])}


def _nifti(data: NDArray[np.int16] | NDArray[np.uint8]) -> bytes:
    """A NIfTI-1 file in LPS of `data` (240, 240, 155) in RAS+."""
    image = Nifti1Image(data[::-1, ::-1], BRATS_AFFINE)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = DESCRIPTION
    image.set_qform(BRATS_AFFINE, code=1)
    image.set_sform(BRATS_AFFINE, code=1)
    return image.to_bytes()


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = next(out.iterdir(), None)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be used as a directory ({error.strerror})") from error
    if occupied is not None:
        raise UsageError(f"--out {out}: is not empty (holds {occupied.name}); name a directory that is new or empty")
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: cannot be written")


def _report(progress: Callable[[int], None] | None, done: int) -> None:
    if progress is not None:
        progress(done)


class _Worker:
    """What a worker process keeps between cases."""

    stop: Event | None = None


def _write_case_unless_stopped(out: Path, seed: int, case: int, anatomies: Sequence[int]) -> None:
    """Cases that are queued already cannot be cancelled, so a worker looks before each."""
    if _Worker.stop is None or not _Worker.stop.is_set():
        write_case(out, seed, case, anatomies)


def _start_worker(stop: Event) -> None:
    """Leave interrupts to the parent, and end when it ends."""
    _Worker.stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()

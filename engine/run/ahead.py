"""Whether, and in how many processes, the host's work of a run is done beside the one that drives a GPU."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

from ..processor import available_threads
from ..sampling.ahead import AheadLoop
from ..sampling.given_masks import GivenMasks, MaskedLoop
from ..sampling.host import HostLoop
from ..sampling.mask_first import MaskFirstModel
from ..sampling.types import BatchLoop, RunLoop

MOST_PROCESSES = 32
"""Beyond that the process that drives the GPU is what bounds the rate."""


def processes_ahead(loop: BatchLoop, threads: int | None) -> int:
    """`most_processes` for a loop of the mask-first form whose steps are taken on a GPU; 0 for any other."""
    return 0 if _staged(loop) is None else most_processes(threads)


def most_processes(threads: int | None) -> int:
    """One for each processor that this process may use, less our own; at most `threads` with our own.

    0 where it may start no others.
    """
    if multiprocessing.current_process().daemon:
        return 0
    allowed = available_threads()
    return min(MOST_PROCESSES, min(allowed, threads or allowed) - 1)


def reason_with(loop: RunLoop, processes: int) -> str:
    """What run.json says of how a loop runs, with its processes."""
    if not processes:
        return loop.reason
    others = "another process" if processes == 1 else f"{processes} other processes"
    return f"{loop.reason}; masks, brains and grain in {others}"


@contextmanager
def working_ahead(loop: BatchLoop, processes: int) -> Iterator[BatchLoop | AheadLoop]:
    """The loop, or where there are processes for it the same with its host's work in them, until the block ends."""
    staged = _staged(loop) if processes else None
    if staged is None:
        yield loop
        return
    inner, model, masks = staged
    try:
        ahead = AheadLoop(inner, model, processes, masks)
    except OSError as error:
        logging.getLogger("sbldm").warning(f"masks and brains are drawn in this process: {error}")
        yield loop
        return
    with ahead:
        yield ahead


@contextmanager
def dropped_on_error(loop: BatchLoop | AheadLoop) -> Iterator[None]:
    """Where the block raises, processes of the loop are ended at once, so that nothing waits for them."""
    try:
        yield
    except BaseException:
        if isinstance(loop, AheadLoop):
            loop.close()
        raise


def _staged(loop: BatchLoop) -> tuple[HostLoop, MaskFirstModel, GivenMasks | None] | None:
    """What of a loop is the mask-first form on a GPU."""
    inner, masks = (loop.loop, loop.masks) if isinstance(loop, MaskedLoop) else (loop, None)
    if not isinstance(inner, HostLoop) or inner.kind == "host" or not isinstance(inner.model, MaskFirstModel):
        return None
    return inner, inner.model, masks

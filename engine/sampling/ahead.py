"""The mask-first form with the host's work in processes beside the one that drives the networks.

They solve masks, draw brains and paint drafts of batches to come, and find brains, draw grain and round the values of
batches that were decoded. Arrays lie in memory that all of them share, in a block a batch.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model_runs import RunTerminatedError, ended_by
from ..process_pool import ProcessPool
from ..shared_blocks import Fields, SharedBlocks
from .batch import Batch
from .given_masks import GivenMasks
from .host import HostLoop
from .mask_first import DecodedImage, MaskFirstModel, tissue_planes
from .types import LoopKind, OnStep, SampleRequest, Volume

SAMPLES_A_PROCESS = 2
"""Samples of batches to come that there are for each process, so that none waits while a batch is decoded."""

T = TypeVar("T")
Shared = tuple[MaskFirstModel, SharedBlocks]


def batches_ahead(processes: int, batch_size: int) -> int:
    """Batches whose masks and brains are drawn, or are there, while one is sampled."""
    return -(-SAMPLES_A_PROCESS * processes // batch_size)


def batches_finished(processes: int, batch_size: int) -> int:
    """Batches that are finished at once: so many that each process may have a sample of them."""
    return -(-processes // batch_size)


class AheadLoop:
    """A `HostLoop` of the mask-first form whose volumes are the same bytes, finished in other processes.

    At most `batches_ahead` batches are begun before the one that is sampled, and `batches_finished` are being finished.

    Raises:
        OSError: the system has no memory to share, or starts no processes.
    """

    def __init__(self, loop: HostLoop, model: MaskFirstModel, processes: int, masks: GivenMasks | None = None) -> None:
        """`model` is that of `loop`; `masks` are those of its samples, where they are given."""
        self.kind: LoopKind = loop.kind
        self.reason, self.options = loop.reason, loop.options
        size = self.options.batch_size
        self.in_flight = 1 + batches_ahead(processes, size)
        self._loop, self._model, self._masks = loop, model, masks
        self._blocks = SharedBlocks(_fields(model, size), self.in_flight + batches_finished(processes, size))
        self._free = SimpleQueue[int | None]()
        for number in range(self._blocks.count):
            self._free.put(number)
        self._pool: ProcessPool[Shared] = ProcessPool(processes, (model, self._blocks))
        self._threads = ThreadPoolExecutor(processes, "ahead")  # each waits for a process

    def __enter__(self) -> AheadLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; what they were to make is dropped."""
        self._pool.close()
        self._threads.shutdown(cancel_futures=True)

    def start(
        self, requests: Sequence[SampleRequest], on_step: OnStep | None = None
    ) -> Callable[[], list[Future[Volume]]]:
        """As `HostLoop.start`: maps of masks are made at once, masks and brains from now on, the rest when what is
        returned is called. That raises IncompleteRunError where a process ended, and so do the volumes to come.
        """
        if self._masks is not None:
            requests = self._masks.given(requests)
        batch, block = self._loop.batch(requests), self._block()
        drawn = [request for request in requests if request.label is None]
        if drawn:
            maps = self._model.maps(self._loop.run, Batch(drawn, batch.size, batch.seed), on_step)
            block.arrays["maps"][:] = maps
        unused = np.ones(batch.size, np.bool_)
        unused[[batch.slot(request) for request in requests]] = False
        block.arrays["tissues"][unused] = 0
        begun = [self._threads.submit(self._drawn, block, _alone(batch, request)) for request in requests]
        return partial(self._collect, batch, [block], begun)

    def _collect(self, batch: Batch, kept: list[_Block], begun: list[Future[bool]]) -> list[Future[Volume]]:
        block = kept.pop()  # whoever keeps what `start` returned keeps no block
        model, run, arrays = self._model, self._loop.run, block.arrays
        failed = np.zeros(batch.size, np.bool_)
        for request, drawn in zip(batch.requests, begun, strict=True):
            failed[batch.slot(request)] = not _waited(drawn)
        told = model.told(run, batch, arrays["labels"], arrays["tissues"], arrays["images"], failed)
        latents = batch.sampled(run, "denoiser", model.latent_shape, told.feeds, self._loop.plan)
        coming = []
        for decoded in model.images(run, batch, told, latents):
            slot = batch.slot(decoded.request)
            arrays["images"][slot], arrays["brains"][slot] = decoded.planes, decoded.brain
            alone = _alone(batch, replace(decoded.request, label=None, shares=None))
            coming.append(self._threads.submit(self._finished, block, alone, decoded.finite))
        return coming

    def _block(self) -> _Block:
        """A block that no batch has, waited for: those that are being finished need nothing that is begun later."""
        number = _received(self._free, "finishing the batches before took too long")
        return _Block(number, self._blocks.arrays(number), self._free)

    def _drawn(self, block: _Block, alone: Batch) -> bool:
        return self._pool.call(draw_case, block.number, alone)

    def _finished(self, block: _Block, alone: Batch, finite: bool) -> Volume:
        try:
            fault = self._pool.call(finish_case, block.number, alone, finite)
        except BaseException:
            del block  # which the error's frames would keep until someone looks at it, while a batch waits for a block
            raise
        (request,) = alone.requests
        voxels, label = (block.arrays[name][alone.slot(request)].copy() for name in ("voxels", "labels"))
        return Volume(request.number, request.attempt, voxels, label, fault)


class _Block:
    """A block of one batch: free again once nobody has it, whatever became of the batch."""

    def __init__(self, number: int, arrays: dict[str, NDArray[Any]], free: SimpleQueue[int | None]) -> None:
        self.number, self.arrays = number, arrays
        weakref.finalize(self, free.put, number)


def draw_case(shared: Shared, block: int, alone: Batch) -> bool:
    """Mask, tissues and draft of the one request of a batch into its slot; False where its maps are not finite."""
    model, blocks = shared
    arrays, (request,) = blocks.arrays(block), alone.requests
    slot = alone.slot(request)
    label = model.mask(alone, request, arrays["maps"][slot])
    arrays["labels"][slot] = 0 if label is None else label
    arrays["tissues"][slot] = tissue_planes(arrays["labels"][slot : slot + 1], model.tissues)[0]
    arrays["images"][slot] = model.draft(alone, request, arrays["labels"][slot])
    return label is not None


def finish_case(shared: Shared, block: int, alone: Batch, finite: bool) -> str | None:
    """The written values of a request whose image lies in its slot; its fault."""
    model, blocks = shared
    arrays, (request,) = blocks.arrays(block), alone.requests
    slot = alone.slot(request)
    decoded = DecodedImage(request, arrays["images"][slot], arrays["brains"][slot], finite)
    volume = model.volume(alone, decoded, arrays["labels"][slot])
    arrays["voxels"][slot] = volume.image
    return volume.fault


def _fields(model: MaskFirstModel, batch_size: int) -> Fields:
    x, y, z = model.grid.shape
    rows: Fields = {
        "maps": (model.form.mask_maps.shape, "float32"),
        "labels": ((x, y, z), "uint8"),
        "tissues": ((model.tissues, z, x, y), "float32"),
        "images": (model.draft_shape, "float32"),  # the draft, and what is decoded in its place
        "brains": ((z, x, y), "float32"),
        "voxels": ((len(model.modalities), x, y, z), "int16"),
    }
    return {name: ((batch_size, *shape), dtype) for name, (shape, dtype) in rows.items()}


def _alone(batch: Batch, request: SampleRequest) -> Batch:
    return Batch([request], batch.size, batch.seed)


def _waited(future: Future[T]) -> T:
    """Its result; RunTerminatedError as of `_received`."""
    there: SimpleQueue[Future[T] | None] = SimpleQueue()
    future.add_done_callback(there.put)
    return _received(there, "a sample's mask or brain took too long").result()


def _received(queue: SimpleQueue[T | None], late: str) -> T:
    """What comes next, never None; RunTerminatedError, saying `late`, where `terminate_model_runs` comes before."""
    ended = threading.Event()

    def end() -> None:
        ended.set()
        queue.put(None)

    with ended_by(end):
        while (received := queue.get()) is None:  # one may be left of a wait that was over when it was ended
            if ended.is_set():
                raise RunTerminatedError(late)
    return received

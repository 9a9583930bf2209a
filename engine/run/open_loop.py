"""From the options of a run to a backend and a loop; the batch size that suits a device.

Here alone is chosen between the host and a device; what drives a GPU is imported where one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from ..backends.choose import choose_backend
from ..bundle.load import Bundle
from ..errors import UsageError
from ..sampling.given_masks import GivenMasks, MaskedLoop
from ..sampling.host import HostLoop
from ..sampling.insert import InsertLoop
from ..sampling.insert_case import InsertCase
from ..sampling.model import model_of
from ..sampling.sdedit import AugmentLoop
from ..sampling.types import Backend, Preloads, RunLoop, SamplingOptions
from .description import RunDescription
from .options import RunOptions
from .request import Source

if TYPE_CHECKING:
    from ..cuda.loops import DeviceLoops

T = TypeVar("T")


def sampling_options(options: RunOptions, batch_size: int) -> SamplingOptions:
    """The sampler's share of a run's options."""
    return SamplingOptions(options.steps, options.sampler, options.eta, options.guidance, options.seed, batch_size)


def reopen_loop(bundle: Bundle, run: RunDescription, device: str, source: Source | None = None) -> RunLoop:
    """The loop of a recorded run; `device` may name one of several devices of its kind, such as cuda:1.

    `source` is what the run starts from.

    Raises:
        BackendUnavailableError: the run's backend cannot run here.
        DeviceMemoryError: the run's batch does not fit here.
        UsageError: it is here in another version, whose bytes may differ.
    """
    resolved = run.resolved
    chosen = device if device.partition(":")[0] == resolved.device else resolved.device
    size = resolved.batch_size
    backend = choose_backend(bundle, resolved.backend, chosen, resolved.precision, resolved.threads, size)
    if backend.version != run.versions[backend.name]:
        raise UsageError(
            f"the run was started with {backend.name} {run.versions[backend.name]}, here is {backend.version}: "
            "install that version to go on, or start a new run"
        )
    loops = device_loops(backend)
    if run.loop is not None and loops is not None and run.loop.kind == "launches":
        loops.refuse_graphs(run.loop.reason)
    return open_loop(bundle, backend, run.options, size, source)


def open_loop(
    bundle: Bundle, backend: Backend, options: RunOptions, batch_size: int, source: Source | None = None
) -> RunLoop:
    """A loop on a backend that is at hand: its steps on the device where the backend has them there.

    UsageError, DeviceMemoryError and BackendUnavailableError as `HostLoop` and `CudaLoop` raise them.
    """
    settings = sampling_options(options, batch_size)
    loops = device_loops(backend)
    if loops is not None and (source is None or isinstance(source, GivenMasks)):
        from ..cuda.forms import open_device_loop

        loop = open_device_loop(bundle, backend.run, loops, settings)
        return MaskedLoop(loop, source) if isinstance(loop, HostLoop) and source is not None else loop
    reason = f"{backend.name} on {backend.device}, one network after the other"
    loop = HostLoop(model_of(bundle.manifest), backend.run, settings, reason)
    if isinstance(source, GivenMasks):
        return MaskedLoop(loop, source)
    if isinstance(source, InsertCase):
        return InsertLoop(loop, source, bundle.manifest.condition_columns, at_once=backend.device == "cpu")
    return loop if source is None else AugmentLoop(loop, source)


def device_loops(backend: Backend) -> DeviceLoops[Any] | None:
    """The loops of a backend that has them on its device; None on a CPU, where nothing of CUDA is imported."""
    if backend.device == "cpu":
        return None
    from ..cuda.loops import OnDevice

    return backend.loops if isinstance(backend, OnDevice) else None


def load_networks(bundle: Bundle, backend: Backend, batch_size: int) -> None:
    """Make every network of a run ready, so that one that cannot be loaded is told before anything is written.

    InvalidInputError and BackendUnavailableError as the backend's first runs would raise them.
    """
    if not isinstance(backend, Preloads):
        return
    loaded: Collection[str] = ()
    if device_loops(backend) is not None:
        from ..cuda.shapes import device_rows

        loaded = device_rows(bundle.manifest, batch_size, guided=False)
    for component, rows in model_of(bundle.manifest).rows(batch_size).items():
        for count in sorted(rows) if component not in loaded else ():
            backend.load(component, count)


def fit_batch(make: Callable[[int], T], batch: int, warn: Callable[[str], None]) -> T:
    """`make(n)` for the largest n of batch, batch / 2, ... that there is memory for.

    Each halving is told to `warn`; DeviceMemoryError where one sample does not fit.
    """
    while True:
        try:
            return make(batch)
        except MemoryError as error:
            if batch == 1:
                raise
            warn(f"{error or f'batch size {batch} does not fit'}; going on with batch size {batch // 2}")
        batch //= 2


def default_batch_size(backend: Backend, options: RunOptions) -> int:
    """Samples of a batch where none are asked for: one on a CPU; on a GPU by model and memory of the card, by no clock.

    So that shards and workers on equal machines agree.
    """
    loops = device_loops(backend)
    return 1 if loops is None else loops.default_samples(guided=options.guidance != 1.0)

"""Volumes a second of the mask-first form if its networks took no time: what the host leaves to a GPU.

The loop is that of `generate --device cuda`, processes beside it included; its networks give what they gave once.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import psutil
from numpy.typing import NDArray

from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.load import Bundle
from ..engine.processor import available_threads
from ..engine.run.ahead import working_ahead
from ..engine.sampling.ahead import AheadLoop
from ..engine.sampling.batch import Batch
from ..engine.sampling.host import HostLoop
from ..engine.sampling.model import model_of
from ..engine.sampling.plan import SamplingPlan
from ..engine.sampling.types import Arrays, BatchLoop, RunComponent, SampleRequest, SamplingOptions, Volume
from .gpu_proof import proof_requests


class ReplayedNetworks:
    """The networks of a bundle of the mask-first form: run for its first sample; what they gave, they give ever after.

    A `TakesSteps`.
    """

    def __init__(self, bundle: Bundle, options: SamplingOptions) -> None:
        manifest, form = bundle.manifest, bundle.manifest.mask_first
        assert form is not None
        self._states = {"mask_denoiser": form.mask_maps.shape, "denoiser": manifest.latent.shape}
        self._run: RunComponent | None = OnnxRuntimeBackend(bundle, "cpu", available_threads()).run
        self._made: dict[str, deque[Mapping[str, NDArray[np.float32]]]] = defaultdict(deque)  # by component
        self._clean: dict[str, NDArray[np.float32]] = {}  # (1, ...) by denoiser
        HostLoop(model_of(manifest), self, replace(options, batch_size=1)).start(proof_requests(bundle, 1))()
        self._run = None

    def __call__(self, component: str, inputs: Arrays) -> Mapping[str, NDArray[np.float32]]:
        """Outputs of a component, call by call as for the first sample."""
        made = self._made[component]
        if self._run is not None:
            made.append(self._run(component, inputs))
        else:
            made.rotate(-1)
        rows = len(next(iter(inputs.values())))
        return {name: _rows(values, rows) for name, values in made[-1].items()}

    def take_steps(
        self,
        component: str,
        batch: Batch,
        told: Mapping[str, NDArray[np.float32]],
        plan: SamplingPlan,
        base_draw: int,
    ) -> NDArray[np.float32]:
        """See `TakesSteps`."""
        if self._run is not None:
            noise = batch.noise(self._states[component], base_draw)
            self._clean[component] = batch.denoised(self._run, component, noise, told, plan, base_draw=base_draw)
        return _rows(self._clean[component], batch.size)


@dataclass(frozen=True)
class HostRate:
    """Volumes a second, and processor time a volume, which other work on the machine lengthens little."""

    volumes_s: float
    own_s: float  # of the process that drives the networks
    others_s: float  # of those beside it


def host_rate(bundle: Bundle, processes: int, batch_size: int, batches: int) -> HostRate:
    """Of so many batches, from the first that is begun to the last that is finished.

    After two that load anatomies and tables. 0 processes: all of it in this one.
    """
    options = SamplingOptions.default(bundle.manifest.defaults, batch_size=batch_size)
    loop = HostLoop(model_of(bundle.manifest), ReplayedNetworks(bundle, options), options, kind="graphs")
    requests = proof_requests(bundle, batch_size * (2 + batches))
    groups = [requests[first : first + batch_size] for first in range(0, len(requests), batch_size)]
    with working_ahead(loop, processes) as working:
        make_all(working, groups[:2])
        start = _seconds()
        make_all(working, groups[2:])
        wall, own, others = (after - before for before, after in zip(start, _seconds(), strict=True))
    volumes = batch_size * batches
    return HostRate(volumes / wall, own / volumes, others / volumes)


def _seconds() -> tuple[float, float, float]:
    """On the wall, of processor time of this process, and of those that it has started and that run."""
    children = (psutil.Process(child.pid).cpu_times() for child in multiprocessing.active_children())
    return time.perf_counter(), time.process_time(), sum(times.user + times.system for times in children)


def make_all(loop: BatchLoop | AheadLoop, groups: Sequence[Sequence[SampleRequest]]) -> list[Volume]:
    """Volumes of groups, as many in flight as may be, in their order."""
    flying = deque[Callable[[], Sequence[Volume | Future[Volume]]]]()
    coming = list[Volume | Future[Volume]]()
    for group in groups:
        flying.append(loop.start(group))
        if len(flying) == loop.in_flight:
            coming += flying.popleft()()
    while flying:
        coming += flying.popleft()()
    return [volume.result() if isinstance(volume, Future) else volume for volume in coming]


def _rows(values: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    return values if len(values) == rows else np.repeat(values[:1], rows, axis=0)

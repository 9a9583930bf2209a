"""What a loop is given and gives back, and what it needs of a model and of a backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import SamplerName, SamplingDefaults
from ..errors import UsageError

LoopKind = Literal["host", "graph", "graphs", "launches"]
"""Who drives the denoising steps: this process, a captured CUDA graph, or launches queued on a GPU, of a CUDA graph a
network or of kernels one by one."""


@dataclass(frozen=True)
class SamplingOptions:
    """What decides a run's numbers beside the bundle and the backend."""

    steps: int
    sampler: SamplerName
    eta: float
    guidance: float
    seed: int
    batch_size: int

    @classmethod
    def default(cls, defaults: SamplingDefaults, seed: int = 0, batch_size: int = 1) -> SamplingOptions:
        """Those of a bundle."""
        return cls(defaults.steps, defaults.sampler, defaults.eta, defaults.guidance, seed, batch_size)


@dataclass(frozen=True)
class SampleRequest:
    """One sample of a run."""

    number: int  # of the sample, from 0
    attempt: int  # 0, or how often it was rejected and redrawn
    condition: NDArray[np.float32]  # (K,) normalised
    wanted: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # (K,) in its own units, for a mask stage
    label: NDArray[np.uint8] | None = None  # (x, y, z): the mask, where it is not to be drawn
    shares: NDArray[np.float32] | None = None  # (3, x, y, z) of `anatomy.draft.HEALTHY`, where no brain is to be drawn


@dataclass(frozen=True)
class Volume:
    """A finished sample on the model's grid."""

    number: int
    attempt: int
    image: NDArray[np.int16]  # (modality, x, y, z), 0..1000, background 0
    label: NDArray[np.uint8]  # (x, y, z)
    fault: str | None  # why it must not be written as good


def check_options(options: SamplingOptions) -> None:
    """UsageError for options that exclude each other."""
    if options.sampler != "ddim" and options.eta:
        raise UsageError(f"--eta: {options.sampler} is deterministic, leave --eta at 0 or use --sampler ddim")
    if options.sampler == "fitted" and options.guidance != 1:
        raise UsageError("--guidance: fitted steps are those without guidance, leave it at 1 or use --sampler ddim")


Arrays = Mapping[str, NDArray[Any]]  # by tensor name
RunComponent = Callable[[str, Arrays], Mapping[str, NDArray[np.float32]]]
"""Computes a component of the bundle: its name and inputs -> its outputs, as the bundle's manifest names them."""


OnStep = Callable[[], None]

LATENTS_AT_ONCE = 6
"""State, prediction, noise, the decoded slices and what a step needs."""


@dataclass(frozen=True)
class Told:
    """What a denoiser is told of the samples of a batch, the same at every step, and what is known of them by then."""

    feeds: dict[str, NDArray[np.float32]]  # by input, each (batch size, ...)
    labels: NDArray[np.uint8] | None = None  # (batch size, x, y, z), where the mask is made first
    failed: NDArray[np.bool_] | None = None  # (batch size,), where no mask came out
    drafts: NDArray[np.float32] | None = None  # (batch size, z, modality, x, y) in -1..1, where brains are drafted


class BatchLoop(Protocol):
    """Requests into volumes, a batch at a time."""

    @property
    def in_flight(self) -> int:
        """Batches that may be started before the first of them is collected."""
        ...

    def start(self, requests: Sequence[SampleRequest], on_step: OnStep | None = None) -> Callable[[], list[Volume]]:
        """Start up to a batch of requests whose slots (number % batch size) differ.

        Calling what is returned, once, gives their volumes, in their order. `on_step` is called between steps, where
        the loop can be interrupted there, and ends the work by what it raises.
        """
        ...


class RunLoop(BatchLoop, Protocol):
    """The loop of a run, which says what it does: `HostLoop`, `AugmentLoop`, `cuda.batch_loop.CudaLoop`."""

    options: SamplingOptions

    @property
    def kind(self) -> LoopKind:
        """Who drives the steps."""
        ...

    @property
    def reason(self) -> str:
        """Why, or on what, in words for run.json."""
        ...


class Backend(Protocol):
    """Runs components; the attributes are recorded in run.json."""

    name: str
    device: str
    precision: str
    threads: int
    version: str

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name."""
        ...


@runtime_checkable
class Preloads(Protocol):
    """A backend that can make networks ready before they are first run."""

    def load(self, component: str, rows: int) -> None:
        """Make a component ready for inputs of this many rows; raises what its first run would."""
        ...

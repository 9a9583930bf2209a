"""The options of a run that fix its bytes, with the bundle's defaults, checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..bundle.load import Bundle
from ..bundle.manifest import SamplerName
from ..errors import UsageError
from ..output.layouts import make_layout

MAX_STEPS = 65535  # draws of one attempt, less the initial one
GRIDS = ("native", "brats")
SAMPLERS = ("ddim", "dpmpp-2m")
MAX_BATCH = 4096


@dataclass(frozen=True)
class RunOptions:
    """What was asked for; together with bundle, conditions and `Resolved` it fixes every byte of a run."""

    count: int
    seed: int
    steps: int
    sampler: SamplerName
    eta: float
    guidance: float
    layout: Literal["brats", "nnunet", "bids"]
    names: Literal["2021", "2023"]
    grid: Literal["native", "brats"]
    reject: float | None  # tolerance; None keeps every tumour
    attempts: int  # redraws at most, with reject


def make_options(bundle: Bundle, count: int, **asked: Any) -> RunOptions:
    """Options with the bundle's defaults where `asked` is None.

    Raises:
        UsageError: a value is out of range; all are named.
    """
    defaults = bundle.manifest.defaults
    filled = {"seed": 0, "layout": "brats", "names": "2021", "grid": "native", "reject": None, "attempts": 4}
    filled |= {name: getattr(defaults, name) for name in ("steps", "sampler", "eta", "guidance")}
    filled |= {name: value for name, value in asked.items() if value is not None}
    options = RunOptions(count=count, **filled)
    faults = list(_faults(options, len(bundle.manifest.schedule.alphas_cumprod)))
    if faults:
        raise UsageError("\n".join(faults))
    make_layout(options.layout, bundle.manifest.modalities, bundle.manifest.labels, options.names)
    return options


def _faults(o: RunOptions, training_steps: int) -> Iterator[str]:
    if o.count < 1:
        yield f"--count {o.count}: must be 1 or more"
    if not 0 <= o.seed < 2**64:
        yield f"--seed {o.seed}: must be from 0 to 2^64 - 1"
    most = min(training_steps, MAX_STEPS)
    if not 1 <= o.steps <= most:
        yield f"--steps {o.steps}: must be from 1 to {most}"
    if o.sampler not in SAMPLERS:
        yield f"--sampler {o.sampler}: allowed: {', '.join(SAMPLERS)}"
    if not 0 <= o.eta <= 1:
        yield f"--eta {o.eta}: must be from 0 to 1"
    if not 0 <= o.guidance <= 100:
        yield f"--guidance {o.guidance}: must be from 0 to 100"
    if o.grid not in GRIDS:
        yield f"--grid {o.grid}: allowed: {', '.join(GRIDS)}"
    if o.reject is not None and not 0 < o.reject <= 10:
        yield f"--reject {o.reject}: the tolerance must be above 0 and at most 10"
    if not 1 <= o.attempts <= 100:
        yield f"--attempts {o.attempts}: must be from 1 to 100"

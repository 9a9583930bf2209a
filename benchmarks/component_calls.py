"""One real call of every component that generation uses, and how far a backend's outputs are from another's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.checks import RMS_LIMIT
from ..engine.bundle.load import Bundle
from ..engine.conditions.columns import blank
from ..engine.run.requests import Requests, sample_requests
from ..engine.sampling.host import HostLoop
from ..engine.sampling.model import model_of
from ..engine.sampling.types import Backend, RunComponent, SamplingOptions

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Departure:
    """A component's output beside the reference's."""

    component: str
    output: str
    rms_relative: float | None  # RMS of the difference over the reference's RMS; None: not finite
    limit: float

    @property
    def passed(self) -> bool:
        """Within the limit."""
        return self.rms_relative is not None and self.rms_relative <= self.limit


@dataclass(frozen=True)
class Gate:
    """Whether a backend may be timed."""

    backend: str
    precision: str
    passed: bool
    reason: str
    departures: tuple[Departure, ...]


class Recorder:
    """Computes components by a backend, and keeps what was asked and answered."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs: dict[str, Arrays] = {}  # of each component's last call of the most rows
        self.outputs: dict[str, list[Mapping[str, NDArray[np.float32]]]] = {}  # of each component's calls

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[np.float32]]:
        """As a backend's."""
        made = self._backend.run(component, inputs)
        self.outputs.setdefault(component, []).append(made)
        if _rows(inputs) >= _rows(self.inputs.get(component, {})):
            self.inputs[component] = dict(inputs)
        return made


@dataclass(frozen=True)
class Calls:
    """The calls by which a batch of volumes is made with the bundle's defaults."""

    inputs: dict[str, Arrays]  # by component; of its last call of the most rows
    a_volume: dict[str, float]  # calls
    host_work: dict[
        str, Callable[[], object]
    ]  # what is computed between them, of a batch: "mask" before the denoiser's


def calls_of(bundle: Bundle, backend: Backend, batch: int = 1) -> Calls:
    """Calls of one batch, made by this backend."""
    recorder, model, columns = Recorder(backend), model_of(bundle.manifest), bundle.manifest.condition_columns
    loop = HostLoop(model, recorder.run, SamplingOptions.default(bundle.manifest.defaults, batch_size=batch))
    drawn = Requests.of(blank([column.name for column in columns]), bundle.manifest, 0)
    made = loop.batch(sample_requests([drawn.task(number) for number in range(batch)], columns))
    told = model.tell(recorder.run, made, None)
    latents = loop.denoise(made, told, made.noise(model.latent_shape, 0), loop.plan)
    model.decode(recorder.run, made, told, latents)
    work: dict[str, Callable[[], object]] = {
        "assemble": lambda: model.decode(_replay(recorder), made, told, latents),
    }
    if told.labels is not None:
        work["mask"] = lambda: model.tell(_replay(recorder), made, None)
    a_volume = {component: len(outputs) / batch for component, outputs in recorder.outputs.items()}
    return Calls(recorder.inputs, a_volume, work)


def _replay(recorder: Recorder) -> RunComponent:
    """The recorded answers again, from the first."""
    answers = {component: iter(outputs) for component, outputs in recorder.outputs.items()}
    return lambda component, _: next(answers[component])


def _rows(inputs: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(inputs.values()), ()))


def check(bundle: Bundle, backend: Backend, reference: Backend, calls: Mapping[str, Arrays]) -> Gate:
    """Hold a backend to the reference on every component, and the reference to the bundle's own parity figures.

    Denoisers are compared at the last training step too: there the prediction hangs on time and condition alone.
    """
    if backend is reference:
        passed, reason = recorded_parity(bundle)
        return Gate(backend.name, backend.precision, passed, reason, ())
    found = [
        departure
        for component, inputs in [*calls.items(), *_earliest(bundle, calls)]
        for departure in departures(component, backend, reference, inputs)
    ]
    worst = max(found, key=lambda d: np.inf if d.rms_relative is None else d.rms_relative / d.limit)
    size = "not finite" if worst.rms_relative is None else f"{worst.rms_relative:.1e} of at most {worst.limit:.0e}"
    reason = f"largest departure from {reference.name}: {worst.component}.{worst.output}, {size}"
    return Gate(backend.name, backend.precision, all(d.passed for d in found), reason, tuple(found))


def _earliest(bundle: Bundle, calls: Mapping[str, Arrays]) -> list[tuple[str, Arrays]]:
    last = len(bundle.manifest.schedule.alphas_cumprod) - 1
    return [
        (component, {**inputs, "timestep": np.full_like(inputs["timestep"], last)})
        for component, inputs in calls.items()
        if "timestep" in inputs
    ]


def departures(component: str, backend: Backend, reference: Backend, inputs: Arrays) -> list[Departure]:
    """Departures of every output of one component."""
    limit = max(RMS_LIMIT[backend.precision], RMS_LIMIT[reference.precision])
    expected, made = reference.run(component, inputs), backend.run(component, inputs)
    found = []
    for name, wanted in expected.items():
        difference = made[name].astype(np.float64) - wanted
        rms = float(np.sqrt(np.mean(difference**2)) / max(np.sqrt(np.mean(wanted.astype(np.float64) ** 2)), 1e-30))
        found.append(Departure(component, name, rms if np.isfinite(rms) else None, limit))
    return found


def recorded_parity(bundle: Bundle) -> tuple[bool, str]:
    """Whether the export held this bundle to its checkpoint, as its parity.json says."""
    path = bundle.path / "parity.json"
    if "parity.json" not in bundle.manifest.files:
        return False, "the bundle holds no parity.json: export it again"
    try:
        passed = json.loads(path.read_bytes()).get("passed") is True
    except (ValueError, AttributeError):
        return False, f"{path}: not a parity report"
    return (
        passed,
        "held to PyTorch when it was exported" if passed else f"{path}: the export's parity gate did not pass",
    )

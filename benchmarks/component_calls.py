"""One real call of every component that generation uses, and how far a backend's outputs are from another's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.load import Bundle
from ..engine.sampling.decoding import DECODER_SLICES
from ..engine.sampling.types import Backend
from ..kernels.assemble import one_hot
from ..kernels.noise import standard_normal

RMS_LIMIT = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-2}  # as the export's parity gate
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


def calls_of(bundle: Bundle, backend: Backend, batch: int = 1) -> dict[str, Arrays]:
    """Inputs of denoiser, aggregator, decoder (one micro-batch) and refiner as they follow from each other."""
    manifest = bundle.manifest
    shape, depth = manifest.latent.shape, manifest.grid.shape[2]
    noise = [standard_normal(0, k, 0, prod(shape)).reshape(shape) for k in range(batch)]
    calls: dict[str, Arrays] = {
        "denoiser": {
            "sample": np.stack(noise),
            "timestep": np.full(batch, len(manifest.schedule.alphas_cumprod) // 2, np.float32),
            "condition": np.zeros((batch, len(manifest.condition_columns)), np.float32),
            "condition_mask": np.ones(batch, np.float32),
        }
    }
    calls["aggregator"] = {"latent": np.stack(noise)}
    slices = backend.run("aggregator", calls["aggregator"])["slices"][0]
    middle = slice(max(0, (depth - DECODER_SLICES) // 2), (depth + DECODER_SLICES) // 2)
    position = np.arange(depth, dtype=np.int64)
    calls["decoder"] = {"latent": slices[middle], "position": position[middle]}
    if bundle.has("refiner"):
        part = backend.run("decoder", calls["decoder"])
        times = (-(-depth // len(part["image"])), 1, 1, 1)
        image, logits = (np.tile(part[name], times)[:depth] for name in ("image", "label_logits"))
        calls["refiner"] = {"image": np.clip(image, -1, 1)[None], "label": one_hot(logits)[None]}
    return calls


def check(bundle: Bundle, backend: Backend, reference: Backend, calls: Mapping[str, Arrays]) -> Gate:
    """Hold a backend to the reference on every component, and the reference to the bundle's own parity figures.

    The denoiser is compared at the last training step too: there the prediction hangs on time and condition alone.
    """
    if backend is reference:
        passed, reason = recorded_parity(bundle)
        return Gate(backend.name, backend.precision, passed, reason, ())
    found = [
        departure
        for component, inputs in [*calls.items(), ("denoiser", _earliest(bundle, calls["denoiser"]))]
        for departure in departures(component, backend, reference, inputs)
    ]
    worst = max(found, key=lambda d: np.inf if d.rms_relative is None else d.rms_relative / d.limit)
    size = "not finite" if worst.rms_relative is None else f"{worst.rms_relative:.1e} of at most {worst.limit:.0e}"
    reason = f"largest departure from {reference.name}: {worst.component}.{worst.output}, {size}"
    return Gate(backend.name, backend.precision, all(d.passed for d in found), reason, tuple(found))


def _earliest(bundle: Bundle, inputs: Arrays) -> Arrays:
    last = len(bundle.manifest.schedule.alphas_cumprod) - 1
    return {**inputs, "timestep": np.full_like(inputs["timestep"], last)}


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

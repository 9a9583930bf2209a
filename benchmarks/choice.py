"""From measured components to the backend that `auto` takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import groupby

from ..engine.backends.mixed import mixed_name
from ..engine.backends.selection import Choice
from ..engine.bundle.load import Bundle
from ..engine.bundle.manifest import COMPONENTS
from ..engine.sampling.types import Backend
from .bench import BenchResult

EMBEDDED = "onnxruntime"


def choose(bundle: Bundle, backends: Mapping[str, Backend], result: BenchResult) -> Choice:
    """The mix of ONNX Runtime and one precision of OpenVINO with the shortest volume at the bundle's own steps.

    Only backends that passed the gate and were timed count. A component goes to OpenVINO where that is faster.
    """
    seconds = _seconds(result)
    weights = {f.component: f.a_volume for f in result.components if f.component in COMPONENTS}
    own = seconds.get(EMBEDDED, {})
    best = (_total(own, weights), EMBEDDED, bundle.manifest.precision)
    for spelled, backend in backends.items():
        theirs = seconds.get(spelled)
        if backend.name != "openvino" or theirs is None:
            continue
        faster = {c for c in weights if theirs[c] < own.get(c, float("inf"))}
        mixed = {c: theirs[c] if c in faster else own[c] for c in weights}
        name = "openvino" if faster == set(weights) else mixed_name(faster)
        if faster and _total(mixed, weights) < best[0]:
            best = (_total(mixed, weights), name, backend.precision)
    by_component = {c: {b: times[c] for b, times in seconds.items() if c in times} for c in weights}
    return Choice(best[1], best[2], time.strftime("%Y-%m-%d"), by_component)


def _seconds(result: BenchResult) -> dict[str, dict[str, float]]:
    figures = sorted((f for f in result.components if f.component in COMPONENTS), key=lambda f: f.backend)
    return {
        backend: {f.component: f.timing.seconds for f in group}
        for backend, group in groupby(figures, key=lambda f: f.backend)
    }


def _total(seconds: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weight * seconds.get(component, float("inf")) for component, weight in weights.items())

"""Check inputs of a component, and what it must give for them: how an engine is proven where it was built.

Inputs are functions of Philox noise, the same on every machine. An exported bundle keeps elements of the fp32 graphs'
outputs at fixed places in `checks.safetensors`; for a bundle without the file they are computed here, on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.noise import standard_normal
from ..errors import InvalidInputError
from ..files import read_bounded
from .load import Bundle
from .manifest import ComponentSpec

CHECKS_NAME = "checks.safetensors"
ROWS = 2
"""Different rows of a check batch; longer batches repeat them."""

RMS_LIMIT: Mapping[str, float] = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 2e-2}
"""Largest accepted RMS error of an output over its RMS, a precision."""

_MOST_ELEMENTS = 4096  # of an output's row that are compared
_MOST_BYTES = 16 * 2**20
_SEED = 20260101
_TIMESTEPS = (250.0, 750.0)
_HEADER_BYTES = 8

Outputs = Mapping[str, NDArray[np.floating[Any]]]


def check_inputs(spec: ComponentSpec, rows: int) -> dict[str, NDArray[Any]]:
    """Inputs of a component for a batch of `rows`: rows k and k + `ROWS` are equal."""
    found = {}
    for draw, tensor in enumerate(spec.inputs):
        shape = tuple(int(n) for n in tensor.shape[1:])
        size = int(np.prod(shape, dtype=np.int64))
        noise = np.stack([standard_normal(_SEED, row, draw, size).reshape(shape) for row in range(ROWS)])
        found[tensor.name] = _values(tensor.name, tensor.dtype, noise)[np.arange(rows) % ROWS]
    return found


def _values(name: str, dtype: str, noise: NDArray[np.float32]) -> NDArray[Any]:
    """What an input of this name may hold, in (ROWS, ...), made of noise of its shape."""
    rows = np.arange(ROWS).reshape(ROWS, *(1,) * (noise.ndim - 1))
    if dtype == "int64":
        return np.broadcast_to(rows, noise.shape).astype(np.int64)
    if name == "timestep":
        return np.array(_TIMESTEPS, np.float32)
    if name in ("condition_mask", "source"):
        return np.ones_like(noise)
    if name in ("label", "tissues"):
        return (noise > 1).astype(np.float32)
    return np.clip(noise, -1, 1) if name == "image" else noise


def elements(outputs: Outputs) -> dict[str, NDArray[np.float32]]:
    """The compared elements (rows, n) of outputs (rows, ...)."""
    found = {}
    for name, values in outputs.items():
        flat = np.asarray(values, np.float32).reshape(len(values), -1)
        found[name] = np.ascontiguousarray(flat[:, :: -(-flat.shape[1] // _MOST_ELEMENTS)])
    return found


def reference_elements(bundle: Bundle, component: str) -> dict[str, NDArray[np.float32]]:
    """What `elements` of a component's outputs on `check_inputs` must be, for `ROWS` rows.

    Raises:
        InvalidInputError: the bundle's file of them is damaged.
        BackendUnavailableError: the bundle has none, and ONNX Runtime cannot compute them here.
    """
    outputs = bundle.manifest.components[component].outputs
    if CHECKS_NAME in bundle.manifest.files:
        kept = read_tensors(bundle.path / CHECKS_NAME)
        return {tensor.name: kept[f"{component}.{tensor.name}"] for tensor in outputs}
    from ..onnx_sessions import import_onnxruntime, load_errors, session_options

    path = bundle.component_path(component)
    with load_errors(path):
        session = import_onnxruntime().InferenceSession(path, session_options(0), providers=["CPUExecutionProvider"])
        names = [tensor.name for tensor in outputs]
        made = session.run(names, check_inputs(bundle.manifest.components[component], ROWS))
    return elements(dict(zip(names, made, strict=True)))


def check_faults(made: Outputs, expected: Mapping[str, NDArray[np.float32]], limit: float) -> tuple[float, list[str]]:
    """Largest RMS error over an output's RMS, and what is wrong with the outputs (rows, ...) of `check_inputs`.

    Args:
        made: outputs of the whole batch.
        expected: of `reference_elements`.
        limit: of `RMS_LIMIT`.
    """
    worst, faults = 0.0, []
    for name, values in elements(made).items():
        wanted = expected[name].astype(np.float64)[np.arange(len(values)) % ROWS]
        if values.shape != wanted.shape:
            faults.append(f"{name}: {values.shape[1:]} elements where {wanted.shape[1:]} belong")
            continue
        if not np.isfinite(values).all():
            faults.append(f"{name}: {100 * (1 - np.isfinite(values).mean()):.3g} % of it is not finite")
            continue
        error = np.sqrt(np.mean((values - wanted) ** 2, axis=1)) / max(float(np.sqrt(np.mean(wanted**2))), 1e-30)
        worst = max(worst, float(error.max()))
        if error.max() > limit:
            faults.append(f"{name}: RMS error {error.max():.2e} over {limit:.0e} in row {error.argmax()}")
    return worst, faults


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 arrays of a safetensors file.

    Raises:
        InvalidInputError: it is none, or cannot be read.
    """
    try:
        data = read_bounded(path, _MOST_BYTES)
        start = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "little")
        header = json.loads(data[_HEADER_BYTES:start])
        found = {}
        for name, told in header.items():
            first, last = told["data_offsets"]
            if told["dtype"] != "F32":
                raise ValueError(f"{name} is {told['dtype']}, not F32")
            found[name] = np.frombuffer(data[start + first : start + last], "<f4").reshape(told["shape"])
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"{path}: no readable tensors ({error})") from error

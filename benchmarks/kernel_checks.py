"""Every kernel against its NumPy reference, on any device: the CPU shim in the tests, a GPU in `gpu_check`.

Each check raises AssertionError with the first difference. Outputs are poisoned before a kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..engine.cuda.device import Device
from ..kernels.assemble import assemble, one_hot
from ..kernels.ddim import ddim_coefficients, ddim_step
from ..kernels.dpmpp import dpmpp_2m_coefficients, dpmpp_2m_step
from ..kernels.noise import CONDITION_DRAW, random_words, standard_normal
from ..kernels.statistics import image_statistics
from ..kernels.step import PredictionType
from .kernel_arrays import KernelArrays

SIZES = (1, 3, 4, 5, 63, 500, 65537)
VOLUMES = ((1, 1, 1), (3, 5, 4), (8, 8, 32), (7, 9, 33), (16, 12, 64), (1, 65537, 1))
"""(x, y, z) that assemble and the statistics are checked at: odd, aligned, more than one tile each way."""

NORMAL_TOLERANCE = 4e-6
"""Normals of two backends agree within this (contract)."""

STEP_TOLERANCE = 2e-6
"""A step's float32 result, relative to the largest magnitude that enters the sum."""

_SEED, _SAMPLES = 0xFEDCBA9876543210, [7, 2**40 + 1]


def check_words(device: Device, size: int) -> None:
    """Philox words are the reference's, bit for bit."""
    blocks = -(-size // 4)
    for draw in (0, CONDITION_DRAW):
        words = KernelArrays(device).words(_SEED, _SAMPLES, draw, blocks)
        expected = np.stack([random_words(_SEED, sample, draw, size) for sample in _SAMPLES])
        np.testing.assert_array_equal(words, expected)


def check_initial(device: Device, size: int) -> None:
    """Initial latents: state within the contract's tolerance, its copies, timestep and flags exact."""
    for guided in (False, True):
        result = KernelArrays(device).initial(_SEED, _SAMPLES, 3, size, guided)
        expected = np.stack([standard_normal(_SEED, sample, 3, size) for sample in _SAMPLES])
        np.testing.assert_allclose(result["state"], expected, rtol=0, atol=NORMAL_TOLERANCE)
        _check_loop_outputs(result, guided, timestep=999.0)


def check_ddim(device: Device, size: int) -> None:
    """DDIM steps of every prediction type, with and without guidance, noise and clipping."""
    for prediction_type in get_args(PredictionType):
        for guidance, eta, clip in ((None, 0.0, None), (2.5, 0.0, 0.7), (1.5, 1.0, None), (None, 0.5, 1.0)):
            c = ddim_coefficients(prediction_type, 0.6, 0.8, 0.8, 0.6, eta, clip)
            state, prediction = _step_inputs(size, guidance is not None)
            noise = np.stack([standard_normal(_SEED, sample, 9, size) for sample in _SAMPLES])
            result = KernelArrays(device).ddim(state, prediction, guidance, c, seed=_SEED, samples=_SAMPLES, draw=9)
            conditional, unconditional = _halves(prediction, guidance)
            expected = ddim_step(state, conditional, unconditional, guidance, c, noise)
            atol = STEP_TOLERANCE * 20.0 + NORMAL_TOLERANCE * c.from_noise
            np.testing.assert_allclose(result["state"], expected, rtol=0, atol=atol)
            _check_loop_outputs(result, guidance is not None, timestep=500.0)


def check_dpmpp(device: Device, size: int) -> None:
    """DPM-Solver++(2M) steps: first order with a poisoned history, second order, last step."""
    points = [(0.4, float(np.sqrt(1 - 0.16))), (0.6, 0.8), (0.8, 0.6), (1.0, 0.0)]
    for before, now, then in ((None, 1, 2), (0, 1, 2), (None, 2, 3)):
        for guidance, clip in ((None, None), (2.5, 0.7)):
            c = dpmpp_2m_coefficients(
                "v_prediction", None if before is None else points[before], points[now], points[then], clip
            )
            state, prediction = _step_inputs(size, guidance is not None)
            previous = np.full_like(state, np.nan) if before is None else state[:, ::-1].copy()
            result = KernelArrays(device).dpmpp(state, prediction, guidance, c, previous)
            conditional, unconditional = _halves(prediction, guidance)
            expected, x0 = dpmpp_2m_step(state, conditional, unconditional, guidance, c, previous)
            np.testing.assert_allclose(result["state"], expected, rtol=0, atol=STEP_TOLERANCE * 20.0)
            np.testing.assert_allclose(result["previous_x0"], x0, rtol=0, atol=STEP_TOLERANCE * 20.0)
            _check_loop_outputs(result, guidance is not None, timestep=500.0)


def check_failure_flags(device: Device, size: int) -> None:
    """NaN and infinity in one sample's prediction mark that sample only, clipped or not."""
    for bad, clip in ((np.nan, None), (np.nan, 1.0), (np.inf, None)):
        state, prediction = _step_inputs(size, False)
        prediction[1, size - 1] = bad
        c = ddim_coefficients("v_prediction", 0.6, 0.8, 0.8, 0.6, clip=clip)
        arrays = KernelArrays(device)
        result = arrays.ddim(state, prediction, None, c, seed=_SEED, samples=_SAMPLES, draw=1)
        np.testing.assert_array_equal(result["failed"], [0, 1])
        if np.isinf(bad):
            continue
        second = dpmpp_2m_coefficients("v_prediction", None, (0.6, 0.8), (0.8, 0.6), clip)
        result = arrays.dpmpp(state, prediction, None, second, state)
        np.testing.assert_array_equal(result["failed"], [0, 1])


def check_assemble(device: Device, shape: tuple[int, int, int]) -> None:
    """Volumes, one-hot labels and the clipped image are the reference's, byte for byte; ties, NaN and Inf too."""
    x, y, z = shape
    random = np.random.default_rng(x * y + z)
    image = random.uniform(-1.3, 1.3, (2 * z, 3, x, y)).astype(np.float32)
    image[random.random(image.shape) < 0.3] = -1.0
    image[random.random(image.shape) < 0.01] = np.nan
    logits = random.integers(-2, 3, (2 * z, 4, x, y)).astype(np.float32)
    logits[-1, 2, 0, 0] = np.inf
    spoilt = [not (np.isfinite(image[at]).all() and np.isfinite(logits[at]).all()) for at in (slice(z), slice(z, None))]
    for threshold in (0.0, 0.25):
        images, labels, failed = KernelArrays(device).assemble(image, logits, z, threshold)
        np.testing.assert_array_equal(failed, spoilt)
        expected_images, expected_labels = assemble(image, logits, z, threshold)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(KernelArrays(device).one_hot(logits), one_hot(logits))
    np.testing.assert_array_equal(KernelArrays(device).clip(image), np.clip(image, -1.0, 1.0))


def check_statistics(device: Device, shape: tuple[int, int, int]) -> None:
    """Statistics are the reference's, exactly; images without foreground or of one value included."""
    random = np.random.default_rng(sum(shape))
    images = random.integers(-3, 1001, (3, 2, *shape)).astype(np.int16)
    images[random.random(images.shape) < 0.2] = 1000
    images[1, 0], images[2] = 0, 7
    expected = np.stack([image_statistics(image) for image in images])
    np.testing.assert_array_equal(KernelArrays(device).statistics(images), expected)


@dataclass(frozen=True)
class Check:
    """One check with its parameters."""

    name: str
    run: Callable[[Device], None]


def all_checks() -> Iterator[Check]:
    """Every check at every size."""

    def bound(function: Callable[..., None], size: int | tuple[int, int, int]) -> Check:
        return Check(f"{function.__name__}-{size}", lambda device: function(device, size))

    for size in SIZES:
        for function in (check_words, check_initial, check_ddim, check_dpmpp, check_failure_flags):
            yield bound(function, size)
    for shape in VOLUMES:
        for function in (check_statistics, check_assemble):
            yield bound(function, shape)


def _step_inputs(size: int, guided: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(size)
    state = random.standard_normal((2, size)).astype(np.float32)
    prediction = random.standard_normal((4 if guided else 2, size)).astype(np.float32)
    return state, prediction


def _halves(
    prediction: NDArray[np.float32], guidance: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    return prediction[:2], prediction[2:] if guidance is not None else None


def _check_loop_outputs(result: dict[str, NDArray], guided: bool, timestep: float) -> None:
    copy = result["state"]
    np.testing.assert_array_equal(result["sample"], np.concatenate([copy, copy]) if guided else copy)
    np.testing.assert_array_equal(result["timestep"], np.full(4 if guided else 2, timestep, np.float32))
    np.testing.assert_array_equal(result["failed"], [0, 0])

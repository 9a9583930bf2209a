"""Inputs that the parity gate compares on: fresh random ones, and real latents with what follows from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import NoiseSchedule
from ..engine.sampling.decoding import DECODER_SLICES, decode_slices
from ..engine.sampling.types import Arrays, RunComponent
from ..kernels.assemble import one_hot
from .components import Component, random_inputs

Cases = dict[str, Arrays]  # by what they are called in the report


def random_cases(component: Component, depth: int, steps: int) -> Cases:
    """Fresh random inputs at two batch sizes; for a denoiser also early, middle and late.

    Args:
        component: whose inputs.
        depth: slices of a volume.
        steps: training steps of the schedule.
    """
    cases: Cases = {
        f"random, batch {batch}": {
            name: value.numpy() for name, value in random_inputs(component, batch, 11 + batch, depth, steps).items()
        }
        for batch in (1, 2)
    }
    if any(spec.name == "timestep" for spec in component.inputs):
        one = cases.pop("random, batch 1")
        for place, timestep in places(steps):
            cases[f"{place}, t {timestep}"] = {**one, "timestep": np.array([timestep], np.float32)}
    return cases


def real_cases(
    components: Mapping[str, Component], reference: RunComponent, schedule: NoiseSchedule, real: NDArray[np.float32]
) -> dict[str, Cases]:
    """Inputs of a system of slices made of one real case: its latents, and what the reference makes of them.

    The denoiser gets the volume latent as noisy as it is early, middle and late, the encoder and the refiner the
    decoded slices.

    Args:
        components: of the system.
        reference: computes what follows from the latents.
        schedule: how noisy a time step is.
        real: slice latents (1, D, c, h, w) of a real or phantom case.
    """
    depth = real.shape[1]
    latent = reference("aggregator_encode", {"slices": real})["latent"]
    made: dict[str, Cases] = {
        "aggregator_encode": {"real latents": {"slices": real}},
        "aggregator": {"real latents": {"latent": latent}},
        "denoiser": _noisy(components["denoiser"], schedule, latent),
    }
    middle = slice(max(depth - DECODER_SLICES, 0) // 2, (depth + DECODER_SLICES) // 2)
    position = np.arange(depth, dtype=np.int64)[middle]
    made["decoder"] = {"real latents": {"latent": real[0, middle], "position": position}}
    decoded = decode_slices(reference, real[0], refined=False)
    hot = one_hot(decoded.label_logits)
    if "refiner" in components:
        made["refiner"] = {"real latents, decoded": {"image": decoded.coarse[None], "label": hot[None]}}
    slices = {"image": decoded.coarse[middle], "label": hot[middle], "position": position}
    made["encoder"] = {"real latents, decoded": slices}
    return made


def _noisy(component: Component, schedule: NoiseSchedule, latent: NDArray[np.float32]) -> Cases:
    columns = int(component.inputs[2].shape[1])
    condition = np.random.default_rng(14).standard_normal((1, columns), np.float32)
    return {
        f"real latents {place}, t {timestep}": {
            "sample": noisy(schedule, latent, timestep),
            "timestep": np.array([timestep], np.float32),
            "condition": condition,
            "condition_mask": np.ones(1, np.float32),
        }
        for place, timestep in places(len(schedule.alphas_cumprod))
    }


def noisy(schedule: NoiseSchedule, clean: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
    """A clean state as noisy as it is at a training step."""
    signal = schedule.alphas_cumprod[timestep]
    noise = np.random.default_rng(13).standard_normal(clean.shape, np.float32)
    return (np.float32(np.sqrt(signal)) * clean + np.float32(np.sqrt(1 - signal)) * noise).astype(np.float32)


def places(steps: int) -> tuple[tuple[str, int], ...]:
    """Early, middle and late training steps of a schedule."""
    return ("early", steps - 1), ("middle", steps // 2), ("late", 0)

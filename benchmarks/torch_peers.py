"""The same networks in PyTorch, the ways people run them, and diffusers' own schedulers on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engine.bundle.manifest import BundleManifest, Form
from ..engine.sampling.schedule import SMALLEST_SIGNAL
from ..engine.sampling.types import RunComponent
from ..export.components import Component, components_of
from ..kernels.noise import standard_normal
from ..train.build import make_denoiser, make_system_aggregator, make_vae
from ..train.config import SystemConfig, load_preset, slice_form
from ..train.torch_components import TorchComponents

PUBLISHED_PRESET = "cmig2025"
PUBLISHED_STEPS = 50
Mode = Literal["eager", "bf16", "compile"]
Scheduler = Literal["ddim", "dpmpp-2m"]


def torch_peer(components: Mapping[str, Component], mode: Mode, form: Form = "slices") -> TorchComponents:
    """The modules of a form on the CPU: as they are, with products in bf16, or compiled."""
    modules: dict[str, Any] = {key: component.module.eval() for key, component in components.items()}
    if mode == "compile":
        modules = {key: torch.compile(module) for key, module in modules.items()}
    return TorchComponents(modules, autocast=torch.bfloat16 if mode == "bf16" else None, form=form)


def compiler_refusals() -> tuple[type[Exception], ...]:
    """What `torch.compile` raises where it cannot compile here: no compiler, or a graph that it does not take."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, CppCompileError, InvalidCxxCompiler


def diffusers_latents(
    run: RunComponent,
    manifest: BundleManifest,
    told: Mapping[str, NDArray[np.float32]],
    kind: Scheduler,
    steps: int,
    seed: int,
) -> NDArray[np.float32]:
    """The latent (1, C, ...) of sample 0 that diffusers' own scheduler makes of the same noise and networks.

    `told` is what the denoiser is told of the sample at every step.
    """
    scheduler = make_scheduler(manifest, kind)
    scheduler.set_timesteps(steps)
    shape = manifest.latent.shape
    state = torch.from_numpy(standard_normal(seed, 0, 0, int(np.prod(shape))).reshape(1, *shape))
    for timestep in scheduler.timesteps:
        feeds = {
            "sample": state.numpy(),
            "timestep": np.full(1, float(timestep), np.float32),
            "condition_mask": np.ones(1, np.float32),
            **told,
        }
        prediction = torch.from_numpy(run("denoiser", feeds)["prediction"])
        state = scheduler.step(prediction, timestep, state).prev_sample
    return state.numpy()


def make_scheduler(manifest: BundleManifest, kind: Scheduler) -> Any:
    """diffusers' DDIM or DPM-Solver++(2M) scheduler on the bundle's own noise table."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    table = np.array(manifest.schedule.alphas_cumprod)
    betas = 1 - table / np.concatenate([[1.0], table[:-1]])
    common = {
        "num_train_timesteps": len(table),
        "trained_betas": betas,
        "prediction_type": manifest.schedule.prediction_type,
        "timestep_spacing": manifest.schedule.timestep_spacing,
    }
    if kind == "ddim":
        return DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True)
    solver = DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    solver.alphas_cumprod.clamp_(min=SMALLEST_SIGNAL)
    return solver


def published_components(manifest: BundleManifest) -> tuple[SystemConfig, dict[str, Component]]:
    """The authors' published architecture at full width with random weights, without our refiner."""
    config = slice_form(load_preset(PUBLISHED_PRESET), PUBLISHED_PRESET)
    torch.manual_seed(0)
    vae = make_vae(config)
    networks: dict[str, nn.Module] = {
        "encoder": vae.encoder,
        "decoder": vae.decoder,
        "aggregator": make_system_aggregator(config),
        "denoiser": make_denoiser(config, manifest.condition_columns),
    }
    return config, components_of(config, {name: n.eval().requires_grad_(False) for name, n in networks.items()})

"""The same networks in PyTorch, the ways people run them, behind the engine's backend protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engine.bundle.manifest import BundleManifest
from ..export.components import Component, components_of
from ..kernels.noise import standard_normal
from ..train.build import make_denoiser, make_system_aggregator, make_vae
from ..train.config import SystemConfig, load_preset

PUBLISHED_PRESET = "cmig2025"
PUBLISHED_STEPS = 50
SMALLEST_SIGNAL = 2.0**-24  # diffusers' stand-in for alphas_cumprod 0 in DPM-Solver
Mode = Literal["eager", "bf16", "compile"]
Scheduler = Literal["ddim", "dpmpp-2m"]


class TorchPeer:
    """PyTorch modules as a backend on the CPU; outputs are float32 arrays."""

    device: str = "cpu"

    def __init__(self, name: str, components: Mapping[str, Component], mode: Mode) -> None:
        self.name, self.mode = name, mode
        self.precision: str = "bf16" if mode == "bf16" else "fp32"
        self.threads = torch.get_num_threads()
        self.version: str = str(torch.__version__)
        self.components = components
        self._modules: dict[str, Any] = {key: component.module.eval() for key, component in components.items()}
        if mode == "compile":
            self._modules = {key: torch.compile(module) for key, module in self._modules.items()}

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.mode == "bf16"):
            made = self._modules[component](**tensors)
        values = made if isinstance(made, tuple) else (made,)
        names = [tensor.name for tensor in self.components[component].outputs]
        return {name: value.float().numpy() for name, value in zip(names, values, strict=True)}


def diffusers_latents(
    peer: TorchPeer, manifest: BundleManifest, condition: NDArray[np.float32], kind: Scheduler, steps: int, seed: int
) -> NDArray[np.float32]:
    """The latent (1, C, ...) of sample 0 that diffusers' own scheduler makes of the same noise and networks."""
    scheduler = make_scheduler(manifest, kind)
    scheduler.set_timesteps(steps)
    shape = manifest.latent.shape
    state = torch.from_numpy(standard_normal(seed, 0, 0, int(np.prod(shape))).reshape(1, *shape))
    for timestep in scheduler.timesteps:
        feeds = {
            "sample": state.numpy(),
            "timestep": np.full(1, float(timestep), np.float32),
            "condition": condition[None],
            "condition_mask": np.ones(1, np.float32),
        }
        prediction = torch.from_numpy(peer.run("denoiser", feeds)["prediction"])
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
    config = load_preset(PUBLISHED_PRESET)
    torch.manual_seed(0)
    vae = make_vae(config)
    networks: dict[str, nn.Module] = {
        "encoder": vae.encoder,
        "decoder": vae.decoder,
        "aggregator": make_system_aggregator(config),
        "denoiser": make_denoiser(config, manifest.condition_columns),
    }
    return config, components_of(config, {name: n.eval().requires_grad_(False) for name, n in networks.items()})

"""The networks of a training directory: loaded when trained, or written untrained for sizing and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.conditions.columns import ConditionColumn
from ..engine.conditions.distribution import CohortDistribution
from .build import make_denoiser, make_refiner, make_system_aggregator, make_vae
from .checkpoint import load_weights, save_system, weights_path, write_tensors
from .condition_file import load_conditions, save_conditions
from .config import AnySystem, SystemConfig
from .networks.refiner import Refiner
from .objectives.refiner import RefinerStage


def load_refiner(config: SystemConfig, directory: Path) -> Refiner:
    """The trained refiner, without its discriminator."""
    stage = RefinerStage(make_refiner(config), len(config.modalities))
    load_weights(stage, directory, "refiner")
    return stage.refiner


def final_denoiser(config: AnySystem) -> str:
    """The stage whose denoiser samples are made by."""
    return "denoiser" if config.distillation is None else "distill"


def load_networks(directory: Path, config: SystemConfig) -> dict[str, nn.Module]:
    """The trained networks of a directory in evaluation mode, the refiner if there is one.

    Raises:
        InvalidInputError: a stage is missing or does not fit.
    """
    vae, aggregator = make_vae(config), make_system_aggregator(config)
    load_weights(vae, directory, "autoencoder")
    load_weights(aggregator, directory, "aggregator")
    denoiser = make_denoiser(config, load_conditions(directory)[0])
    load_weights(denoiser, directory, final_denoiser(config))
    networks: dict[str, nn.Module] = {
        "encoder": vae.encoder, "decoder": vae.decoder, "aggregator": aggregator, "denoiser": denoiser,
    }  # fmt: skip
    if config.refiner is not None:
        networks["refiner"] = load_refiner(config, directory)
    return {name: network.eval().requires_grad_(False) for name, network in networks.items()}


def save_random_system(
    directory: Path, config: SystemConfig, columns: Sequence[ConditionColumn], cohort: CohortDistribution, seed: int
) -> None:
    """Write a training directory of untrained networks, zero-initialised layers random too (export tests, sizing)."""
    begin_untrained(directory, config, columns, cohort, seed)
    modules: dict[str, nn.Module] = {
        "autoencoder": make_vae(config),
        "aggregator": make_system_aggregator(config),
        "denoiser": make_denoiser(config, columns),
    }  # fmt: skip
    if config.refiner is not None:
        modules["refiner"] = RefinerStage(make_refiner(config), len(config.modalities))
    if config.distillation is not None:
        modules["distill"] = modules["denoiser"]
    write_randomised(directory, modules)


def begin_untrained(
    directory: Path, config: AnySystem, columns: Sequence[ConditionColumn], cohort: CohortDistribution, seed: int
) -> None:
    """Make a training directory without networks, which are to be random numbers of this seed."""
    torch.manual_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    save_system(directory, config)
    save_conditions(directory, columns, cohort)


def write_randomised(directory: Path, modules: Mapping[str, nn.Module]) -> None:
    """Store the weights of untrained stages, by name, without a record of training."""
    for stage, module in modules.items():
        (directory / stage).mkdir(exist_ok=True)
        write_tensors(weights_path(directory, stage), randomised(module))


def randomised(module: nn.Module) -> dict[str, Tensor]:
    """A module's state with every all-zero weight replaced by small noise."""
    state = {k: v.clone() for k, v in module.state_dict().items()}
    for name, _ in module.named_parameters():
        if not state[name].any():
            state[name] = 0.02 * torch.randn_like(state[name])
    return state

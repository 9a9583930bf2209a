"""What a system costs before anything is trained: multiply-adds of its networks, memory of its stages.

All of it is counted on PyTorch's meta device, where tensors have shapes but no contents, so it takes seconds and no
memory at any width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..engine.conditions.columns import ConditionColumn
from .build import make_denoiser, make_refiner, make_system_aggregator, make_vae, system_latent_shape
from .config import AnySystem, MaskFirstConfig, SystemConfig
from .mask_first import make_image_denoiser, make_mask_denoiser, make_slab_autoencoder, make_volume_refiner
from .objectives.refiner import REFINER_SLICES, RefinerStage
from .objectives.slice_autoencoder import AutoencoderObjective, SliceSampler
from .objectives.volume_refiner import PLANE

FLOAT_BYTES = 4
COPIES = 5  # of every weight in training: itself, gradient, two Adam moments, moving average
META = torch.device("meta")


@dataclass(frozen=True)
class NetworkCost:
    """One network in one forward pass of batch 1."""

    name: str
    parameters: int
    gmac: float  # 10^9 multiply-adds of convolutions and matrix products
    unit: str  # what a forward pass makes: a slice or a volume


@dataclass(frozen=True)
class StageMemory:
    """What a training step holds, in float32 bytes; mixed precision keeps less of the activations.

    Not in it: frozen networks of earlier stages, workspaces of the convolutions, the runtime itself.
    """

    weights: int  # weights, gradients, both Adam moments and the moving average
    activations: int  # tensors that the forward pass of one batch keeps for the backward pass

    @property
    def total(self) -> int:
        """Both together."""
        return self.weights + self.activations


def gmac_of(call: Callable[[], object]) -> float:
    """10^9 multiply-adds of what `call` computes; PyTorch counts a multiply-add as two operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 2e9


def network_costs(config: AnySystem, columns: Sequence[ConditionColumn]) -> list[NetworkCost]:
    """Every network of a system; a denoiser for one call, the refiner for a whole volume."""
    if isinstance(config, MaskFirstConfig):
        return _mask_first_costs(config, columns)
    x, y, depth = config.grid.shape
    modalities, classes = len(config.modalities), config.classes
    with META:
        vae, aggregator = make_vae(config), make_system_aggregator(config)
        denoiser = make_denoiser(config, columns)
        image, label = torch.empty(1, modalities, x, y), torch.empty(1, classes, x, y)
        position, latent = torch.zeros(1, dtype=torch.int64), torch.empty(1, *config.slice_shape)
        stack, volume = torch.empty(1, depth, *config.slice_shape), torch.empty(1, *system_latent_shape(config))
        time, condition = torch.empty(1), torch.empty(1, len(columns))
        calls: list[tuple[str, nn.Module, Callable[[], object], str]] = [
            ("encoder", vae.encoder, lambda: vae.encoder(image, label, position), "slice"),
            ("decoder", vae.decoder, lambda: vae.decoder(latent, position), "slice"),
            ("aggregator", aggregator, lambda: (aggregator.encode(stack), aggregator.decode(volume)), "volume"),
            ("denoiser", denoiser, lambda: denoiser(volume, time, condition, time), "volume"),
        ]
        if config.refiner is not None:
            refiner = make_refiner(config)
            coarse, hot = torch.empty(1, depth, modalities, x, y), torch.empty(1, depth, classes, x, y)
            calls.append(("refiner", refiner, lambda: refiner(coarse, hot), "volume"))
        return [NetworkCost(name, weight_count(network), gmac_of(call), unit) for name, network, call, unit in calls]


def _mask_first_costs(config: MaskFirstConfig, columns: Sequence[ConditionColumn]) -> list[NetworkCost]:
    x, y, depth = config.grid.shape
    slices, modalities = config.autoencoder.slices, len(config.modalities)
    with META:
        autoencoder, denoiser = make_slab_autoencoder(config), make_image_denoiser(config)
        mask_denoiser = make_mask_denoiser(config, columns)
        encoder, aggregator, decoder = autoencoder.encoder, autoencoder.aggregator, autoencoder.decoder
        slabs = torch.empty(depth // slices, slices * modalities, x, y)
        features = torch.empty(1, *encoder(slabs).shape)
        latent, maps = torch.empty(1, *config.latent_shape), torch.empty(1, *config.maps_shape)
        one, condition = torch.empty(1), torch.empty(1, len(columns))
        tissues = torch.empty(1, len(config.tissues), depth, x, y)
        calls: list[tuple[str, nn.Module, Callable[[], object]]] = [
            ("encoder", encoder, lambda: encoder(slabs)),
            ("aggregator", aggregator, lambda: (aggregator.encode(features), aggregator.decode(latent))),
            ("decoder", decoder, lambda: decoder(features[0])),
            ("mask_denoiser", mask_denoiser, lambda: mask_denoiser(maps, one, condition, one)),
            ("denoiser", denoiser, lambda: denoiser(latent, one, tissues, latent, one, one)),
        ]
        if config.refiner is not None:
            refiner, image = make_volume_refiner(config), torch.empty(1, depth, modalities, x, y)
            calls.append(("refiner", refiner, lambda: refiner(image, image)))
        return [NetworkCost(name, weight_count(network), gmac_of(call), "volume") for name, network, call in calls]


def weight_count(module: nn.Module) -> int:
    """Trained parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def stage_memory(config: AnySystem, stage: str, columns: Sequence[ConditionColumn]) -> StageMemory:
    """What one training step of a stage holds at the stage's batch size."""
    with META:
        mask_first = isinstance(config, MaskFirstConfig)
        module, loss = _mask_first_loss(config, stage, columns) if mask_first else _stage_loss(config, stage, columns)
        return StageMemory(COPIES * FLOAT_BYTES * weight_count(module), saved_bytes(loss, module))


def saved_bytes(forward: Callable[[], object], module: nn.Module) -> int:
    """Bytes that autograd keeps after `forward`, each storage once, without the module's own tensors."""
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that its identity is not given to another
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    size = sum(storage.nbytes() for storage in kept.values())
    del result
    return size


class _EmptySlices(SliceSampler):
    """Batches of the right shapes without a cohort."""

    def __init__(self, config: SystemConfig) -> None:
        self.config = config

    def draw(self, size: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x, y, _ = self.config.grid.shape
        whole = torch.int64
        image = torch.empty(size, len(self.config.modalities), x, y)
        return image, torch.zeros(size, x, y, dtype=whole), torch.zeros(size, dtype=whole)


class _LeastSquares(nn.Module):
    """Stands for MONAI's adversarial loss, which cannot make its target on the meta device."""

    def forward(self, scores: Tensor, target_is_real: bool, for_discriminator: bool) -> Tensor:
        return (scores - float(target_is_real)).square().mean()


def _mask_first_loss(
    config: MaskFirstConfig, stage: str, columns: Sequence[ConditionColumn]
) -> tuple[nn.Module, Callable[[], object]]:
    """The module that a stage trains, and a loss of a batch with the same activations."""
    size, one = config.stages[stage].batch_size, torch.empty(config.stages[stage].batch_size)
    if stage == "autoencoder":
        autoencoder = make_slab_autoencoder(config)
        x, y, z = config.crops.shape
        slices = config.autoencoder.slices
        slabs = torch.empty(size, z // slices, slices * len(config.modalities), x, y)
        return autoencoder, lambda: autoencoder(slabs, autoencoder.jitter_like(slabs))
    if stage == "mask":
        mask_denoiser = make_mask_denoiser(config, columns)
        maps, condition = torch.empty(size, *config.maps_shape), torch.empty(size, len(columns))
        return mask_denoiser, lambda: mask_denoiser(maps, one, condition, one)
    x, y, depth = config.grid.shape
    if stage == "refiner":
        refiner = make_volume_refiner(config)
        image = torch.empty(size, min(REFINER_SLICES, depth), len(config.modalities), min(PLANE, x), min(PLANE, y))
        return refiner, lambda: refiner(image, image)
    denoiser = make_image_denoiser(config)
    latent, tissues = torch.empty(size, *config.latent_shape), torch.empty(size, len(config.tissues), depth, x, y)
    return denoiser, lambda: denoiser(latent, one, tissues, latent, one, one)


def _stage_loss(
    config: SystemConfig, stage: str, columns: Sequence[ConditionColumn]
) -> tuple[nn.Module, Callable[[], object]]:
    """The module that a stage trains, and its loss on a batch."""
    x, y, depth = config.grid.shape
    size, modalities = config.stages[stage].batch_size, len(config.modalities)
    if stage == "autoencoder":
        vae = make_vae(config)
        objective = AutoencoderObjective(config, _EmptySlices(config))
        return vae, lambda: objective(vae, 0, np.random.default_rng(0))
    if stage == "aggregator":
        aggregator = make_system_aggregator(config)
        slices = torch.empty(size, depth, *config.slice_shape)
        if config.aggregator.kind == "stack":
            return aggregator, lambda: None
        return aggregator, lambda: cast(Any, aggregator).loss(slices, config.aggregator.kl_weight)
    if stage in ("denoiser", "distill"):  # the teacher is a frozen network
        denoiser = make_denoiser(config, columns)
        volume, time = torch.empty(size, *system_latent_shape(config)), torch.empty(size)
        condition = torch.empty(size, len(columns))
        return denoiser, lambda: denoiser(volume, time, condition, time).square().mean()
    refiner = RefinerStage(make_refiner(config), modalities)
    refiner.adversarial = _LeastSquares()
    span = min(REFINER_SLICES, depth)
    image, label = torch.empty(size, span, modalities, x, y), torch.empty(size, span, config.classes, x, y)
    return refiner, lambda: refiner.loss(image, label, image)

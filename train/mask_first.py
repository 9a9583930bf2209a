"""The stages of a mask-first system, run in order into one directory: autoencoder, mask, denoiser, distill."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..engine.conditions.columns import COLUMNS, ConditionColumn
from ..engine.conditions.distribution import CohortDistribution
from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from .checkpoint import load_weights, save_system
from .condition_file import load_conditions, save_conditions
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .mask_set import MapScale, MaskSet, MaskVolumes, make_mask_set, save_map_scale
from .networks.planar import ImageDenoiser, MaskDenoiser
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .objectives.slab_autoencoder import CropSampler, SlabAutoencoderObjective, principal_blocks
from .objectives.volumes import GuidedObjective, NoisyVolumes, VolumeObjective, Volumes
from .stage import StageRun
from .trained import write_randomised
from .trainer import Trainer
from .volume_latents import ImageVolumes, encode_volumes, normalised_aggregator, save_normalisation

Progress = Callable[[int, int], None]


def make_slab_autoencoder(config: MaskFirstConfig) -> SlabAutoencoder:
    """The autoencoder of a system."""
    return SlabAutoencoder(config.autoencoder, len(config.modalities))


def make_mask_denoiser(config: MaskFirstConfig, columns: Sequence[ConditionColumn]) -> MaskDenoiser:
    """The mask denoiser of a system; its ellipsoid map learns the columns' normalisation from `columns`."""
    denoiser = MaskDenoiser(config.mask_denoiser, config.maps_shape, COLUMNS)
    places = [columns[i] for i in denoiser.ellipsoid.picks]
    denoiser.ellipsoid.column_mean.copy_(torch.tensor([c.mean for c in places]))
    denoiser.ellipsoid.column_std.copy_(torch.tensor([c.std for c in places]))
    return denoiser


def make_image_denoiser(config: MaskFirstConfig) -> ImageDenoiser:
    """The image denoiser of a system."""
    return ImageDenoiser(config.denoiser, config.latent_shape, len(config.tissues), config.autoencoder.slices)


@dataclass(frozen=True)
class MaskFirstData:
    """What a mask-first system trains on."""

    cohort: Cohort
    sources: NDArray[np.float32]  # (cases,): 1 a real scan, 0 a phantom
    extra_masks: Path | None  # .npz of masks without images, for the mask stage alone


class MaskFirstTrainer(Trainer):
    """Trains a mask-first system."""

    def __init__(
        self,
        config: MaskFirstConfig,
        data: MaskFirstData,
        run: StageRun,
        progress: Progress,
        *,
        keep_stale: bool = False,
    ) -> None:
        super().__init__(config, data.cohort, run, keep_stale=keep_stale)
        self.config, self.data, self.progress = config, data, progress

    def stages(self) -> Mapping[str, Callable[[], None]]:
        """What trains each stage."""
        return {
            "autoencoder": self._autoencoder,
            "mask": self._mask,
            "denoiser": self._denoiser,
            "distill": self._distill,
        }

    def inputs(self, stage: str) -> Mapping[str, str | None]:
        """The masks of the mask stage."""
        extra = self.data.extra_masks
        return {"--masks": None if extra is None else sha256_file(extra)} if stage == "mask" else {}

    def _autoencoder(self) -> None:
        config, stage = self.config, self.config.stages["autoencoder"]
        sampler = CropSampler(self.cohort, balanced(self.data.sources), config.crops)
        autoencoder = make_slab_autoencoder(config)
        if not (self.directory / "autoencoder" / "state.json").is_file():
            shape = config.autoencoder
            autoencoder.start_from(*principal_blocks(sampler, shape.slices, shape.latent_channels))
        objective = SlabAutoencoderObjective(sampler, config.autoencoder.slices, stage.batch_size)
        self._run("autoencoder", autoencoder, objective)

    def _mask(self) -> None:
        masks = self._masks()
        columns, _ = load_conditions(self.directory)
        volumes = self._noisy(MaskVolumes(masks, columns, self.config.grid.fov_mm))
        stage = self.config.stages["mask"]
        denoiser = make_mask_denoiser(self.config, columns)
        self._run("mask", denoiser, VolumeObjective(volumes, stage.batch_size))

    def _denoiser(self) -> None:
        stage = self.config.stages["denoiser"]
        images, weights = self._images()
        objective = VolumeObjective(self._noisy(images), stage.batch_size, weights)
        self._run("denoiser", make_image_denoiser(self.config), objective)

    def _distill(self) -> None:
        if self.config.distillation is None:
            raise InvalidInputError(f"preset {self.config.preset}: has no distillation")
        stage, guidance = self.config.stages["distill"], self.config.distillation.guidance
        teacher = make_image_denoiser(self.config)
        load_weights(teacher, self.directory, "denoiser")
        student = copy.deepcopy(teacher)
        teacher = teacher.eval().requires_grad_(False).to(self.run.fabric.device)
        volumes = self._noisy(self._images()[0])
        objective = GuidedObjective(volumes, stage.batch_size, teacher, guidance, self.run.fabric.autocast)
        self._run("distill", student, objective)

    def _noisy(self, volumes: Volumes) -> NoisyVolumes:
        return NoisyVolumes(volumes, self.schedule, self.config.condition_dropout)

    def _masks(self) -> MaskSet:
        with self.run.fabric.rank_zero_first():
            return make_mask_set(self.cohort, self.data.extra_masks, self.config, self.directory, self.progress)

    def _images(self) -> tuple[ImageVolumes, Tensor]:
        """The encoded cases, and how much each latent channel shows in the image."""
        autoencoder = make_slab_autoencoder(self.config)
        load_weights(autoencoder, self.directory, "autoencoder")
        autoencoder = autoencoder.eval().requires_grad_(False).to(self.run.fabric.device)
        with self.run.fabric.rank_zero_first():
            store = encode_volumes(autoencoder, self.cohort, self.config, self.directory, self.progress)
        aggregator = normalised_aggregator(autoencoder, self.config, self.directory)
        images = ImageVolumes(self.cohort, store, aggregator, self.data.sources)
        return images, channel_weights(autoencoder, aggregator)


@torch.no_grad()
def channel_weights(autoencoder: SlabAutoencoder, aggregator: NormalisedAggregator) -> Tensor:
    """(C,) of mean 1: the amplitude that a unit of each normalised channel has in the image by the linear shortcut."""
    amplitude = autoencoder.decoder.expand.weight.flatten(1).square().sum(dim=0).sqrt() * aggregator.scale.flatten()  # pyright: ignore[reportCallIssue]
    return amplitude / amplitude.mean()


def balanced(sources: NDArray[np.float32]) -> list[float]:
    """Chances of the cases: real scans and phantoms take half of the draws each where both are there."""
    real = float(sources.sum())
    if real in (0.0, float(len(sources))):
        return [1.0] * len(sources)
    return np.where(sources > 0, 0.5 / real, 0.5 / (len(sources) - real)).tolist()


def load_mask_first(directory: Path, config: MaskFirstConfig) -> dict[str, nn.Module]:
    """The trained networks of a directory in evaluation mode: encoder, aggregator, decoder, denoiser, mask_denoiser.

    Raises:
        InvalidInputError: a stage is missing or does not fit.
    """
    autoencoder = make_slab_autoencoder(config)
    load_weights(autoencoder, directory, "autoencoder")
    denoiser = make_image_denoiser(config)
    load_weights(denoiser, directory, "denoiser" if config.distillation is None else "distill")
    mask_denoiser = make_mask_denoiser(config, load_conditions(directory)[0])
    load_weights(mask_denoiser, directory, "mask")
    networks: dict[str, nn.Module] = {
        "encoder": autoencoder.encoder,
        "aggregator": normalised_aggregator(autoencoder, config, directory),
        "decoder": autoencoder.decoder,
        "denoiser": denoiser,
        "mask_denoiser": mask_denoiser,
    }
    return {name: network.eval().requires_grad_(False) for name, network in networks.items()}


def save_random_mask_first(
    directory: Path, config: MaskFirstConfig, columns: Sequence[ConditionColumn], cohort: CohortDistribution, seed: int
) -> None:
    """Write a training directory of untrained networks, zero-initialised layers random too (export tests, sizing)."""
    torch.manual_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    save_system(directory, config)
    save_conditions(directory, columns, cohort)
    modules: dict[str, nn.Module] = {
        "autoencoder": make_slab_autoencoder(config),
        "mask": make_mask_denoiser(config, columns),
        "denoiser": make_image_denoiser(config),
    }
    if config.distillation is not None:
        modules["distill"] = modules["denoiser"]
    write_randomised(directory, modules)
    save_normalisation(directory, torch.randn(config.latent_shape), torch.rand(config.latent_shape[0]) + 0.5)
    save_map_scale(directory, MapScale((15.0, 17.0, 18.0), (9.0, 7.0, 5.0)))

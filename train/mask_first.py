"""The stages of a mask-first system, run in order into one directory: autoencoder, mask, denoiser, distill, refiner."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..engine.anatomy.draft import HEALTHY
from ..engine.conditions.columns import COLUMNS, ConditionColumn
from ..engine.conditions.distribution import CohortDistribution
from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from .checkpoint import load_weights
from .condition_file import load_conditions
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.draws import chances
from .drafted_samples import SampleMaker, drafted_samples, samples_of
from .drafts import DraftLevels, load_levels, save_levels
from .grain import save_grain
from .held_out import CASES, HeldOutLoss, looked_at
from .mask_set import LEAST_ML, MapScale, MaskSet, MaskVolumes, make_mask_set, measured_masks, save_map_scale
from .networks.planar import ImageDenoiser, MaskDenoiser
from .networks.refiner import DraftRefiner
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .objectives.slab_autoencoder import CropSampler, SlabAutoencoderObjective, principal_blocks
from .objectives.volume_refiner import VolumeRefinerObjective
from .objectives.volumes import GuidedObjective, NoisyVolumes, VolumeObjective, Volumes
from .stage import HeldOut, StageRun, StepLoss
from .trained import begin_untrained, final_denoiser, write_randomised
from .trainer import Trainer
from .volume_latents import (
    FOLDER,
    ImageVolumes,
    encode_unseen,
    encode_volumes,
    normalised_aggregator,
    save_normalisation,
)
from .volume_model import sampling_networks
from .volume_previews import VolumePreviews

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


def make_volume_refiner(config: MaskFirstConfig) -> DraftRefiner:
    """The refiner of a system.

    Raises:
        InvalidInputError: the preset has none.
    """
    if config.refiner is None:
        raise InvalidInputError(f"preset {config.preset}: has no refiner")
    return DraftRefiner(config.refiner, len(config.modalities))


@dataclass(frozen=True)
class MaskFirstData:
    """What a mask-first system trains on, and what it is looked at with."""

    cohort: Cohort  # varied copies and phantoms included
    held_out: Cohort  # may be empty
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
        start_from: Path | None = None,
    ) -> None:
        super().__init__(config, data.cohort, run, keep_stale=keep_stale, start_from=start_from)
        self.config, self.data, self.progress = config, data, progress
        self.held_out = looked_at(data.held_out)

    def stages(self) -> Mapping[str, Callable[[], None]]:
        """What trains each stage."""
        return {
            "autoencoder": self._autoencoder,
            "mask": self._mask,
            "denoiser": self._denoiser,
            "distill": self._distill,
            "refiner": self._refiner,
        }

    @cached_property
    def previews(self) -> VolumePreviews:
        """Draws the first held-out case, or the first training case where none is held out."""
        shown = self.held_out if len(self.held_out) else self.cohort
        return VolumePreviews(self.config, shown, self.schedule, self.run.seed, self.run.fabric.device)

    def inputs(self, stage: str) -> Mapping[str, str | None]:
        """The masks of the mask stage."""
        extra = self.data.extra_masks
        return {"--masks": None if extra is None else sha256_file(extra)} if stage == "mask" else {}

    def _autoencoder(self) -> None:
        config, slices = self.config, self.config.autoencoder.slices
        size = config.stages["autoencoder"].batch_size
        sampler = CropSampler(self.cohort, chances(self.cohort), config.crops)
        autoencoder = make_slab_autoencoder(config)
        if not (self.directory / "autoencoder" / "state.json").is_file():
            autoencoder.start_from(*principal_blocks(sampler, slices, config.autoencoder.latent_channels))
        objective = SlabAutoencoderObjective(sampler, slices, size)
        unseen = None
        if len(self.held_out):
            as_they_are = replace(config.crops, contrast_share=0.0, jitter=0.0)
            crops = CropSampler(self.held_out, chances(self.held_out), as_they_are)
            unseen = SlabAutoencoderObjective(crops, slices, size, objective.weights)
        self._run(
            "autoencoder",
            autoencoder,
            objective,
            lambda trained: self.previews.reconstruction(cast(SlabAutoencoder, trained)),
            held_out=self._held_out("autoencoder", unseen),
        )

    def _mask(self) -> None:
        masks = self._masks()
        columns, _ = load_conditions(self.directory)
        size, fov_mm = self.config.stages["mask"].batch_size, self.config.grid.fov_mm
        unseen = None
        if (self.held_out.conditions[:, COLUMNS.index("volume_ml")] >= LEAST_ML).any():
            others = MaskSet(*measured_masks(self.held_out, None, self.config, lambda *_: None), masks.scale)
            unseen = VolumeObjective(self._noisy(MaskVolumes(others, columns, fov_mm), dropout=0.0), size)
        self._run(
            "mask",
            make_mask_denoiser(self.config, columns),
            VolumeObjective(self._noisy(MaskVolumes(masks, columns, fov_mm)), size),
            lambda denoiser: self.previews.mask(denoiser, columns, masks.scale),
            held_out=self._held_out("mask", unseen),
        )

    def _denoiser(self) -> None:
        size, images = self.config.stages["denoiser"].batch_size, self._images()
        weights = channel_weights(images.autoencoder, images.aggregator)

        def objective(volumes: NoisyVolumes) -> StepLoss:
            return VolumeObjective(volumes, size, weights)

        self._image_stage("denoiser", make_image_denoiser(self.config), images, objective)

    def _distill(self) -> None:
        if self.config.distillation is None:
            raise InvalidInputError(f"preset {self.config.preset}: has no distillation")
        size, guidance = self.config.stages["distill"].batch_size, self.config.distillation.guidance
        teacher = make_image_denoiser(self.config)
        load_weights(teacher, self.directory, "denoiser")
        student = copy.deepcopy(teacher)
        teacher = teacher.eval().requires_grad_(False).to(self.run.fabric.device)

        def objective(volumes: NoisyVolumes) -> StepLoss:
            return GuidedObjective(volumes, size, teacher, guidance, self.run.fabric.autocast)

        self._image_stage("distill", student, self._images(), objective)

    def _refiner(self) -> None:
        images, final, size = self._images(), final_denoiser(self.config), self.config.stages["refiner"].batch_size
        denoiser = make_image_denoiser(self.config)
        load_weights(denoiser, self.directory, final)
        denoiser = denoiser.eval().requires_grad_(False).to(self.run.fabric.device)
        run = sampling_networks(images.autoencoder, images.aggregator, denoiser, self.run.fabric.device)
        maker = SampleMaker(run, self.cohort, self.config, self.schedule, images.levels)
        networks = self._origin("refiner").upstream
        samples = drafted_samples(maker, self.directory, networks, self.run.fabric, self.progress)
        unseen = None
        if len(self.held_out):
            others = samples_of(replace(maker, cohort=self.held_out))
            unseen = VolumeRefinerObjective(self.held_out, others, size)
        self._run(
            "refiner",
            make_volume_refiner(self.config),
            VolumeRefinerObjective(self.cohort, samples, size),
            lambda refiner: self.previews.sample(
                denoiser, images.aggregator, images.autoencoder, images.levels, refiner
            ),
            held_out=self._held_out("refiner", unseen),
        )

    def _image_stage(
        self, stage: str, denoiser: nn.Module, images: _Images, objective: Callable[[NoisyVolumes], StepLoss]
    ) -> None:
        unseen = None if images.held_out is None else objective(self._noisy(images.held_out, dropout=0.0))
        self._run(
            stage,
            denoiser,
            objective(self._noisy(images.training)),
            lambda trained: self.previews.sample(trained, images.aggregator, images.autoencoder, images.levels),
            held_out=self._held_out(stage, unseen),
        )

    def _held_out(self, stage: str, objective: StepLoss | None) -> HeldOut | None:
        if objective is None:
            return None
        batches = math.ceil(CASES / self.config.stages[stage].batch_size)
        return HeldOutLoss(stage, objective, batches, self.run.fabric.autocast)

    def _noisy(self, volumes: Volumes, dropout: float | None = None) -> NoisyVolumes:
        return NoisyVolumes(volumes, self.schedule, self.config.condition_dropout if dropout is None else dropout)

    def _masks(self) -> MaskSet:
        with self.run.fabric.rank_zero_first():
            return make_mask_set(self.cohort, self.data.extra_masks, self.config, self.directory, self.progress)

    def _images(self) -> _Images:
        config = self.config
        autoencoder = make_slab_autoencoder(config)
        load_weights(autoencoder, self.directory, "autoencoder")
        autoencoder = autoencoder.eval().requires_grad_(False).to(self.run.fabric.device)
        encoded = encode_volumes(autoencoder, self.cohort, config, self.directory, self.run.fabric, self.progress)
        aggregator = normalised_aggregator(autoencoder, config, self.directory)
        unseen = None
        if len(self.held_out):
            others = encode_unseen(autoencoder, self.held_out, config, self.directory)
            unseen = ImageVolumes(self.held_out, others, aggregator)
        training = ImageVolumes(self.cohort, encoded, aggregator)
        return _Images(autoencoder, aggregator, load_levels(self.directory / FOLDER), training, unseen)


@dataclass(frozen=True)
class _Images:
    """What the stages on encoded cases are made of."""

    autoencoder: SlabAutoencoder
    aggregator: NormalisedAggregator
    levels: DraftLevels
    training: ImageVolumes
    held_out: ImageVolumes | None


@torch.no_grad()
def channel_weights(autoencoder: SlabAutoencoder, aggregator: NormalisedAggregator) -> Tensor:
    """(C,) of mean 1: the amplitude that a unit of each normalised channel has in the image by the linear shortcut."""
    amplitude = autoencoder.decoder.expand.weight.flatten(1).square().sum(dim=0).sqrt() * aggregator.scale.flatten()  # pyright: ignore[reportCallIssue]
    return amplitude / amplitude.mean()


def load_mask_first(directory: Path, config: MaskFirstConfig) -> dict[str, nn.Module]:
    """The trained networks of a directory in evaluation mode: encoder, aggregator, decoder, denoiser, mask_denoiser and
    the refiner if there is one.

    Raises:
        InvalidInputError: a stage is missing or does not fit.
    """
    autoencoder = make_slab_autoencoder(config)
    load_weights(autoencoder, directory, "autoencoder")
    denoiser = make_image_denoiser(config)
    load_weights(denoiser, directory, final_denoiser(config))
    mask_denoiser = make_mask_denoiser(config, load_conditions(directory)[0])
    load_weights(mask_denoiser, directory, "mask")
    networks: dict[str, nn.Module] = {
        "encoder": autoencoder.encoder,
        "aggregator": normalised_aggregator(autoencoder, config, directory),
        "decoder": autoencoder.decoder,
        "denoiser": denoiser,
        "mask_denoiser": mask_denoiser,
    }
    if config.refiner is not None:
        networks["refiner"] = make_volume_refiner(config)
        load_weights(networks["refiner"], directory, "refiner")
    return {name: network.eval().requires_grad_(False) for name, network in networks.items()}


def save_random_mask_first(
    directory: Path, config: MaskFirstConfig, columns: Sequence[ConditionColumn], cohort: CohortDistribution, seed: int
) -> None:
    """Write a training directory of untrained networks, zero-initialised layers random too (export tests, sizing)."""
    begin_untrained(directory, config, columns, cohort, seed)
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
    tissues, modalities = range(len(HEALTHY) + len(config.tissues)), range(len(config.modalities))
    levels = tuple(tuple(round(0.15 + 0.07 * row + 0.11 * column, 2) for column in modalities) for row in tissues)
    save_levels(directory / FOLDER, levels)
    save_grain(directory / FOLDER, tuple((0.03, 0.02 + 0.01 * column) for column in modalities))
    if config.refiner is not None:
        write_randomised(directory, {"refiner": make_volume_refiner(config)})

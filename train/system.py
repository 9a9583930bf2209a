"""The stages of a system, run in order into one directory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import cast

import torch
from torch import nn

from ..engine.conditions.columns import fit_columns, normalise
from ..engine.conditions.distribution import fit
from ..engine.errors import InvalidInputError
from .build import make_denoiser, make_refiner, make_system_aggregator, make_vae
from .checkpoint import STAGES, load_weights, save_system, weights_path, write_json, write_tensors
from .condition_file import load_conditions, save_conditions
from .config import AnySystem, MaskFirstConfig, SystemConfig
from .data.cohort import Cohort
from .diffusion import make_schedule
from .guards import refuse_another_cohort, refuse_other_networks
from .latents import LatentStore, condition_names, encode_cohort, measure_latent_scale, measure_normalisation
from .logbook import Picture
from .networks.aggregator import Aggregator, MosaicAggregator
from .networks.slice_vae import SliceVae
from .objectives.aggregator import AggregatorObjective
from .objectives.denoiser import DenoiserObjective, NoisyLatents
from .objectives.distill import DistillObjective
from .objectives.refiner import RefinerObjective, RefinerStage
from .objectives.slice_autoencoder import AutoencoderObjective, SliceSampler
from .previews import CASE, Previews
from .stage import Preview, StageRun, finished, train_stage

MASK_FIRST_STAGES = ("autoencoder", "mask", "denoiser", "distill")


def planned_stages(config: AnySystem, stage: str) -> tuple[str, ...]:
    """The stages that `stage` (a name or `all`) stands for.

    Raises:
        InvalidInputError: no such stage in this preset.
    """
    absent = {"distill"} if config.distillation is None else set[str]()
    if isinstance(config, SystemConfig) and config.refiner is None:
        absent.add("refiner")
    order = MASK_FIRST_STAGES if isinstance(config, MaskFirstConfig) else STAGES
    present = tuple(s for s in order if s in config.stages and s not in absent)
    if stage == "all":
        return present
    if stage not in present:
        raise InvalidInputError(f"stage {stage!r}: preset {config.preset} has {', '.join(present)}")
    return (stage,)


class SystemTrainer:
    """Trains the stages of one system into one directory, each from the last checkpoint on."""

    def __init__(
        self, config: SystemConfig, cohort: Cohort, run: StageRun, encoding: Callable[[int, int], None]
    ) -> None:
        self.config, self.cohort, self.run, self.encoding = config, cohort, run, encoding
        self.directory = run.directory
        self.schedule = make_schedule(config.schedule)

    @cached_property
    def previews(self) -> Previews:
        """Draws the first training case."""
        return Previews(self.config, self.cohort, self.run.fabric.device)

    def start(self) -> None:
        """Write what the directory belongs to and what the cohort's conditions are.

        Raises:
            InvalidInputError: stages of the directory were trained on another cohort, or belong to other networks.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        refuse_another_cohort(self.directory, self.run.cohort)
        refuse_other_networks(self.directory, self.config)
        save_system(self.directory, self.config)
        names = condition_names(self.config)
        rows = self.cohort.conditions[:, : len(names)]
        save_conditions(self.directory, fit_columns(rows, names), fit(rows, names, self.config.grid.fov_mm))

    def train(self, stage: str) -> None:
        """Run one stage to its end; what it needs of earlier stages is loaded from the directory."""
        if finished(self.directory, stage, self.config.stages[stage]):
            return
        torch.manual_seed(self.run.seed + STAGES.index(stage))
        {
            "autoencoder": self._autoencoder,
            "aggregator": self._aggregator,
            "denoiser": self._denoiser,
            "refiner": self._refiner,
            "distill": self._distill,
        }[stage]()

    def _autoencoder(self) -> None:
        sampler = SliceSampler(self.cohort, self.config)
        train_stage(
            self.run,
            "autoencoder",
            make_vae(self.config),
            AutoencoderObjective(self.config, sampler),
            self.config.stages["autoencoder"],
            lambda vae: self.previews.reconstruction(cast(SliceVae, vae)),
        )

    def _aggregator(self) -> None:
        store = self._latents(self._vae())
        aggregator = make_system_aggregator(self.config)
        measure_normalisation(aggregator, store)
        if isinstance(aggregator, MosaicAggregator):
            stage = self.config.stages["aggregator"]
            trained = train_stage(self.run, "aggregator", aggregator, AggregatorObjective(self.config, store), stage)
            aggregator.load_state_dict(trained.state_dict())
            measure_latent_scale(aggregator, store)
        folder = self.directory / "aggregator"
        folder.mkdir(exist_ok=True)
        write_tensors(weights_path(self.directory, "aggregator"), aggregator.state_dict())
        if not (folder / "state.json").is_file():
            steps = self.config.stages["aggregator"].steps
            write_json(folder / "state.json", {"step": steps, "seed": self.run.seed, "cohort": self.run.cohort})

    def _denoiser(self) -> None:
        latents, preview = self._denoising()
        columns, _ = load_conditions(self.directory)
        objective = DenoiserObjective(self.config, latents)
        denoiser = make_denoiser(self.config, columns)
        train_stage(self.run, "denoiser", denoiser, objective, self.config.stages["denoiser"], preview)

    def _distill(self) -> None:
        if self.config.distillation is None:
            raise InvalidInputError(f"preset {self.config.preset}: has no distillation")
        latents, preview = self._denoising()
        columns, _ = load_conditions(self.directory)
        teacher = make_denoiser(self.config, columns)
        load_weights(teacher, self.directory, "denoiser")
        student = copy.deepcopy(teacher)
        teacher = teacher.eval().requires_grad_(False).to(self.run.fabric.device)
        guidance, autocast = self.config.distillation.guidance, self.run.fabric.autocast
        objective = DistillObjective(self.config, latents, teacher, guidance, autocast)
        train_stage(self.run, "distill", student, objective, self.config.stages["distill"], preview)

    def _denoising(self) -> tuple[NoisyLatents, Preview]:
        """What a denoiser trains on, and how it is shown."""
        vae = self._vae()
        store = self._latents(vae)
        columns, _ = load_conditions(self.directory)
        flat = store.conditions.reshape(-1, store.conditions.shape[-1])
        conditions = normalise(flat, columns).reshape(store.conditions.shape)
        aggregator = self._load_aggregator()

        def preview(denoiser: nn.Module) -> Picture:
            condition = conditions[CASE, 0]
            return self.previews.sample(denoiser, aggregator, vae.decoder, self.schedule, condition, self.run.seed)

        return NoisyLatents(self.config, store, aggregator, conditions, self.schedule), preview

    def _refiner(self) -> None:
        vae = self._vae()
        store, aggregator = self._latents(vae), self._load_aggregator()
        objective = RefinerObjective(self.config, self.cohort, store, vae.decoder, aggregator.normalisation.scale)
        module = RefinerStage(make_refiner(self.config), len(self.config.modalities))
        train_stage(
            self.run,
            "refiner",
            module,
            objective,
            self.config.stages["refiner"],
            lambda stage: self.previews.refined(cast(RefinerStage, stage).refiner, vae.decoder, store.latents[CASE, 0]),
        )

    def _vae(self) -> SliceVae:
        vae = make_vae(self.config)
        load_weights(vae, self.directory, "autoencoder")
        return vae.eval().requires_grad_(False).to(self.run.fabric.device)

    def _load_aggregator(self) -> Aggregator:
        aggregator = make_system_aggregator(self.config)
        load_weights(aggregator, self.directory, "aggregator")
        return aggregator.eval().requires_grad_(False).to(self.run.fabric.device)

    def _latents(self, vae: SliceVae) -> LatentStore:
        return encode_cohort(vae.encoder, self.cohort, self.config, self.directory, self.encoding)

"""The stages of a system, run in order into one directory."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from ..engine.conditions.columns import normalise
from ..engine.errors import InvalidInputError
from .build import make_denoiser, make_refiner, make_system_aggregator, make_vae
from .checkpoint import STAGES, load_weights
from .condition_file import load_conditions
from .config import AnySystem, MaskFirstConfig, SystemConfig
from .data.cohort import Cohort
from .held_out import HeldOutLoss, looked_at
from .latents import LatentStore, encode_cohort, encode_in_memory, measure_latent_scale, measure_normalisation
from .lineage import new_record, origin_of
from .logbook import Picture
from .networks.aggregator import Aggregator, MosaicAggregator
from .networks.slice_vae import SliceVae
from .objectives.aggregator import AggregatorObjective
from .objectives.denoiser import DenoiserObjective, NoisyLatents
from .objectives.distill import DistillObjective
from .objectives.refiner import RefinerObjective, RefinerStage, UnseenRefining
from .objectives.slice_autoencoder import AutoencoderObjective, SliceSampler
from .previews import CASE, Previews
from .stage import HeldOut, Preview, StageRun, StepLoss, complete_stage
from .trainer import Trainer

log = logging.getLogger(__name__)

HELD_OUT_BATCHES = 4
HELD_OUT_TIMES = 16  # at least, of a denoiser, so that each part of the schedule has some
MASK_FIRST_STAGES = ("autoencoder", "mask", "denoiser", "distill", "refiner")


def planned_stages(config: AnySystem, stage: str) -> tuple[str, ...]:
    """The stages that `stage` (a name or `all`) stands for.

    Raises:
        InvalidInputError: no such stage in this preset.
    """
    absent = {"distill"} if config.distillation is None else set[str]()
    if config.refiner is None:
        absent.add("refiner")
    order = MASK_FIRST_STAGES if isinstance(config, MaskFirstConfig) else STAGES
    present = tuple(s for s in order if s in config.stages and s not in absent)
    if stage == "all":
        return present
    if stage not in present:
        raise InvalidInputError(f"stage {stage!r}: preset {config.preset} has {', '.join(present)}")
    return (stage,)


@dataclass(frozen=True)
class _Denoising:
    """What a denoiser trains on, what it is looked at with, and how it is shown."""

    training: NoisyLatents
    unseen: Callable[[Cohort], NoisyLatents]  # without dropped conditions
    preview: Preview


class SystemTrainer(Trainer):
    """Trains a system of the slice form."""

    def __init__(
        self,
        config: SystemConfig,
        cohort: Cohort,
        run: StageRun,
        encoding: Callable[[int, int], None],
        *,
        held_out: Cohort | None = None,
        keep_stale: bool = False,
        start_from: Path | None = None,
    ) -> None:
        """`held_out` are cases that every stage is looked at with."""
        super().__init__(config, cohort, run, keep_stale=keep_stale, start_from=start_from)
        self.config, self.encoding = config, encoding
        self.held_out = looked_at(held_out) if held_out is not None and len(held_out) else None

    @cached_property
    def previews(self) -> Previews:
        """Draws the first training case."""
        return Previews(self.config, self.cohort, self.run.fabric.device)

    def stages(self) -> Mapping[str, Callable[[], None]]:
        """What trains each stage."""
        return {
            "autoencoder": self._autoencoder,
            "aggregator": self._aggregator,
            "denoiser": self._denoiser,
            "refiner": self._refiner,
            "distill": self._distill,
        }

    def _autoencoder(self) -> None:
        sampler = SliceSampler(self.cohort, self.config)
        self._run(
            "autoencoder",
            make_vae(self.config),
            AutoencoderObjective(self.config, sampler),
            lambda vae: self.previews.reconstruction(cast(SliceVae, vae)),
            held_out=self._held_out(
                "autoencoder", lambda cases: AutoencoderObjective(self.config, SliceSampler(cases, self.config))
            ),
        )

    def _aggregator(self) -> None:
        vae = self._vae()
        store = self._latents(vae)
        aggregator = make_system_aggregator(self.config)
        measure_normalisation(aggregator, store)
        if not isinstance(aggregator, MosaicAggregator):  # nothing to optimise: measured is finished
            origin = origin_of(self.directory, self.config, "aggregator")
            steps = self.config.stages["aggregator"].steps
            record = replace(new_record(origin, self.run.seed, self.run.cohort), step=steps)
            if self.run.fabric.is_global_zero:
                complete_stage(self.directory, "aggregator", aggregator.state_dict(), record)
            self.run.fabric.barrier()
            return

        def with_scale(trained: nn.Module) -> Mapping[str, Tensor]:
            measure_latent_scale(cast(MosaicAggregator, trained), store)
            return trained.state_dict()

        unseen = self._held_out(
            "aggregator",
            lambda cases: AggregatorObjective(self.config, encode_in_memory(vae.encoder, cases, self.config)),
        )
        objective = AggregatorObjective(self.config, store)
        self._run("aggregator", aggregator, objective, held_out=unseen, finish=with_scale)

    def _denoiser(self) -> None:
        denoising = self._denoising()
        columns, _ = load_conditions(self.directory)
        objective = DenoiserObjective(self.config, denoising.training)
        unseen = self._held_out("denoiser", lambda cases: DenoiserObjective(self.config, denoising.unseen(cases)))
        self._run("denoiser", make_denoiser(self.config, columns), objective, denoising.preview, held_out=unseen)

    def _distill(self) -> None:
        if self.config.distillation is None:
            raise InvalidInputError(f"preset {self.config.preset}: has no distillation")
        denoising = self._denoising()
        columns, _ = load_conditions(self.directory)
        teacher = make_denoiser(self.config, columns)
        load_weights(teacher, self.directory, "denoiser")
        student = copy.deepcopy(teacher)
        teacher = teacher.eval().requires_grad_(False).to(self.run.fabric.device)
        guidance, autocast = self.config.distillation.guidance, self.run.fabric.autocast

        def objective(latents: NoisyLatents) -> DistillObjective:
            return DistillObjective(self.config, latents, teacher, guidance, autocast)

        unseen = self._held_out("distill", lambda cases: objective(denoising.unseen(cases)))
        self._run("distill", student, objective(denoising.training), denoising.preview, held_out=unseen)

    def _held_out(self, stage: str, objective: Callable[[Cohort], StepLoss]) -> HeldOut | None:
        """The loss of `objective` of the held-out cases, where there are some."""
        if self.held_out is None:
            return None
        timed = HELD_OUT_TIMES if stage in ("denoiser", "distill") else 0
        batches = max(HELD_OUT_BATCHES, math.ceil(timed / self.config.stages[stage].batch_size))
        return HeldOutLoss(stage, objective(self.held_out), batches, self.run.fabric.autocast)

    def _denoising(self) -> _Denoising:
        """What a denoiser trains on, and how it is shown."""
        vae = self._vae()
        store = self._latents(vae)
        columns, _ = load_conditions(self.directory)
        aggregator = self._load_aggregator()

        def noisy(config: SystemConfig, of: LatentStore) -> NoisyLatents:
            flat = of.conditions.reshape(-1, of.conditions.shape[-1])
            normalised = normalise(flat, columns).reshape(of.conditions.shape)
            return NoisyLatents(config, of, aggregator, normalised, self.schedule)

        def unseen(cases: Cohort) -> NoisyLatents:
            told = replace(self.config, condition_dropout=0.0)
            return noisy(told, encode_in_memory(vae.encoder, cases, self.config))

        training = noisy(self.config, store)
        conditions = training.conditions

        def preview(denoiser: nn.Module) -> Picture:
            condition = conditions[CASE, 0]
            return self.previews.sample(denoiser, aggregator, vae.decoder, self.schedule, condition, self.run.seed)

        return _Denoising(training, unseen, preview)

    def _refiner(self) -> None:
        vae = self._vae()
        store, aggregator = self._latents(vae), self._load_aggregator()
        scale = aggregator.normalisation.scale
        objective = RefinerObjective(self.config, self.cohort, store, vae.decoder, scale)

        def unseen(cases: Cohort) -> UnseenRefining:
            encoded = encode_in_memory(vae.encoder, cases, self.config)
            return UnseenRefining(RefinerObjective(self.config, cases, encoded, vae.decoder, scale, jitter=0.0))

        module = RefinerStage(make_refiner(self.config), len(self.config.modalities))
        self._run(
            "refiner",
            module,
            objective,
            lambda stage: self.previews.refined(cast(RefinerStage, stage).refiner, vae.decoder, store.latents[CASE, 0]),
            held_out=self._held_out("refiner", unseen),
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
        return encode_cohort(vae.encoder, self.cohort, self.config, self.directory, self.run.fabric, self.encoding)

"""The stages of a system, run in order into one directory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from .latents import LatentStore, encode_cohort, measure_latent_scale, measure_normalisation
from .lineage import new_record, origin_of
from .logbook import Picture
from .networks.aggregator import Aggregator, MosaicAggregator
from .networks.slice_vae import SliceVae
from .objectives.aggregator import AggregatorObjective
from .objectives.denoiser import DenoiserObjective, NoisyLatents
from .objectives.distill import DistillObjective
from .objectives.refiner import RefinerObjective, RefinerStage
from .objectives.slice_autoencoder import AutoencoderObjective, SliceSampler
from .previews import CASE, Previews
from .stage import Preview, StageRun, complete_stage
from .trainer import Trainer

log = logging.getLogger(__name__)

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


class SystemTrainer(Trainer):
    """Trains a system of the slice form."""

    def __init__(
        self,
        config: SystemConfig,
        cohort: Cohort,
        run: StageRun,
        encoding: Callable[[int, int], None],
        *,
        keep_stale: bool = False,
        start_from: Path | None = None,
    ) -> None:
        super().__init__(config, cohort, run, keep_stale=keep_stale, start_from=start_from)
        self.config, self.encoding = config, encoding

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
        )

    def _aggregator(self) -> None:
        store = self._latents(self._vae())
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

        self._run("aggregator", aggregator, AggregatorObjective(self.config, store), finish=with_scale)

    def _denoiser(self) -> None:
        latents, preview = self._denoising()
        columns, _ = load_conditions(self.directory)
        objective = DenoiserObjective(self.config, latents)
        denoiser = make_denoiser(self.config, columns)
        self._run("denoiser", denoiser, objective, preview)

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
        self._run("distill", student, objective, preview)

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
        self._run(
            "refiner",
            module,
            objective,
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
        return encode_cohort(vae.encoder, self.cohort, self.config, self.directory, self.run.fabric, self.encoding)

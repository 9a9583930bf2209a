"""The stages of a system, run in order into one directory."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from ..engine.conditions.columns import fit_columns, normalise
from ..engine.conditions.distribution import fit
from ..engine.errors import InvalidInputError
from .build import make_denoiser, make_refiner, make_system_aggregator, make_vae
from .checkpoint import STAGES, load_weights, save_system, weights_path
from .condition_file import load_conditions, save_conditions
from .config import SystemConfig
from .data.cohort import Cohort
from .diffusion import make_schedule
from .guards import refuse_another_cohort, refuse_other_networks, require_same_settings
from .latents import LatentStore, condition_names, encode_cohort, measure_latent_scale, measure_normalisation
from .lineage import STATE_NAME, new_record, origin_of, outdated_upstream, read_record
from .logbook import Picture
from .networks.aggregator import Aggregator, MosaicAggregator
from .networks.slice_vae import SliceVae
from .objectives.aggregator import AggregatorObjective
from .objectives.denoiser import DenoiserObjective, NoisyLatents
from .objectives.distill import DistillObjective
from .objectives.refiner import RefinerObjective, RefinerStage
from .objectives.slice_autoencoder import AutoencoderObjective, SliceSampler
from .previews import CASE, Previews
from .stage import Finish, Preview, StageRun, StepLoss, complete_stage, train_stage

log = logging.getLogger(__name__)


def planned_stages(config: SystemConfig, stage: str) -> tuple[str, ...]:
    """The stages that `stage` (a name or `all`) stands for.

    Raises:
        InvalidInputError: no such stage in this preset.
    """
    absent = {"refiner": config.refiner is None, "distill": config.distillation is None}
    present = tuple(s for s in STAGES if s in config.stages and not absent.get(s, False))
    if stage == "all":
        return present
    if stage not in present:
        raise InvalidInputError(f"stage {stage!r}: preset {config.preset} has {', '.join(present)}")
    return (stage,)


class SystemTrainer:
    """Trains the stages of one system into one directory, each from the last checkpoint on."""

    def __init__(
        self,
        config: SystemConfig,
        cohort: Cohort,
        run: StageRun,
        encoding: Callable[[int, int], None],
        *,
        keep_stale: bool = False,
    ) -> None:
        self.config, self.cohort, self.run, self.encoding = config, cohort, run, encoding
        self.keep_stale = keep_stale
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
        if self.run.fabric.is_global_zero:
            self._describe()
        self.run.fabric.barrier()

    def _describe(self) -> None:
        save_system(self.directory, self.config)
        names = condition_names(self.config)
        rows = self.cohort.conditions[:, : len(names)]
        save_conditions(self.directory, fit_columns(rows, names), fit(rows, names, self.config.grid.fov_mm))

    def restart(self, stage: str) -> None:
        """Forget what a stage has learnt, so that `train` makes it again."""
        folder = self.directory / stage
        if self.run.fabric.is_global_zero:
            for name in (STATE_NAME, weights_path(self.directory, stage).name):
                (folder / name).unlink(missing_ok=True)
            for state in folder.glob("state-*.safetensors"):
                state.unlink()
        self.run.fabric.barrier()

    def train(self, stage: str) -> None:
        """Run one stage to its end; what it needs of earlier stages is loaded from the directory.

        A stage that is finished and current is left as it is. One whose earlier stages have changed since is made
        again, unless `keep_stale` is set; that is said either way.

        Raises:
            InvalidInputError: an earlier stage is missing, unfinished or outdated, or settings of the finished stage
                were changed.
        """
        origin = origin_of(self.directory, self.config, stage)
        record = read_record(self.directory, stage)
        if record is not None and (outdated := outdated_upstream(self.directory, record)):
            if self.keep_stale:
                log.warning("stage %s: %s; kept, as --keep-stale asks", stage, outdated[0])
            else:
                log.warning("stage %s: %s; it is made again", stage, outdated[0])
                self.restart(stage)
                record = None
        if record is not None and record.finished and record.step >= self.config.stages[stage].steps:
            require_same_settings(self.directory, stage, record, origin, self.run.seed)
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

    def _run(
        self,
        stage: str,
        module: nn.Module,
        objective: StepLoss,
        preview: Preview | None = None,
        finish: Finish | None = None,
    ) -> None:
        origin = origin_of(self.directory, self.config, stage)
        train_stage(
            self.run, stage, module, objective, self.config.stages[stage], preview, origin=origin, finish=finish
        )

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
        with self.run.fabric.rank_zero_first():
            return encode_cohort(vae.encoder, self.cohort, self.config, self.directory, self.encoding)

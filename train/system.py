"""A whole system: its networks put together, and the stages run in order."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.conditions.columns import ConditionColumn, fit_columns, normalise
from ..engine.conditions.distribution import CohortDistribution, fit
from ..engine.decode import decode
from ..engine.errors import InvalidInputError
from .autoencoder import AutoencoderObjective, SliceSampler
from .checkpoint import (
    STAGES,
    SYSTEM_NAME,
    load_system,
    load_weights,
    read_json,
    save_system,
    weights_path,
    write_json,
    write_tensors,
)
from .config import SystemConfig
from .data.cohort import Cohort
from .diffusion import make_schedule
from .latents import LatentStore, condition_names, encode_cohort
from .logbook import Picture
from .networks.aggregator import Aggregator, MosaicAggregator, latent_shape, make_aggregator
from .networks.denoiser import Denoiser
from .networks.refiner import Refiner
from .networks.slice_vae import SliceVae
from .objectives import (
    AggregatorObjective,
    DenoiserObjective,
    DistillObjective,
    NoisyLatents,
    RefinerObjective,
    RefinerStage,
)
from .previews import CASE, Previews
from .stage import Preview, StageRun, finished, train_stage

CONDITIONS_NAME = "conditions.json"
STATISTICS_CASES = 256  # cases that latent statistics are measured on


def make_vae(config: SystemConfig) -> SliceVae:
    """The slice VAE of a system."""
    return SliceVae(config.vae, len(config.modalities), config.classes, config.grid.shape[2])


def make_system_aggregator(config: SystemConfig) -> Aggregator:
    """The aggregator of a system."""
    c, h, w = config.slice_shape
    return make_aggregator(config.aggregator, c, config.grid.shape[2], h, w)


def system_latent_shape(config: SystemConfig) -> tuple[int, ...]:
    """Shape of Z without the batch axis."""
    c, h, w = config.slice_shape
    return latent_shape(config.aggregator, c, config.grid.shape[2], h, w)


def make_denoiser(config: SystemConfig, columns: Sequence[ConditionColumn]) -> Denoiser:
    """The denoiser of a system; the ellipsoid map learns the columns' normalisation from `columns`."""
    denoiser = Denoiser(config.denoiser, system_latent_shape(config), condition_names(config))
    if denoiser.ellipsoid is not None:
        places = [columns[i] for i in denoiser.ellipsoid.picks]
        denoiser.ellipsoid.column_mean.copy_(torch.tensor([c.mean for c in places]))
        denoiser.ellipsoid.column_std.copy_(torch.tensor([c.std for c in places]))
    return denoiser


def make_refiner(config: SystemConfig) -> Refiner:
    """The refiner of a system.

    Raises:
        InvalidInputError: the preset has none.
    """
    if config.refiner is None:
        raise InvalidInputError(f"preset {config.preset}: has no refiner stage")
    return Refiner(config.refiner, len(config.modalities), config.classes)


def save_conditions(directory: Path, columns: Sequence[ConditionColumn], cohort: CohortDistribution) -> None:
    """Store what the cohort's tumours say: normalisation and distribution."""
    write_json(directory / CONDITIONS_NAME, {"columns": [asdict(c) for c in columns], "cohort": asdict(cohort)})


def load_conditions(directory: Path) -> tuple[tuple[ConditionColumn, ...], CohortDistribution]:
    """Condition columns with their normalisation, and the cohort's distribution.

    Raises:
        InvalidInputError: not there or damaged.
    """
    path = directory / CONDITIONS_NAME
    data = read_json(path)
    columns = tuple(decode(ConditionColumn, c, f"{path}: columns") for c in data.get("columns", []))
    return columns, decode(CohortDistribution, data.get("cohort"), f"{path}: cohort")


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


def cohort_digest(cohort: Cohort) -> str:
    """What tells the cases that a system is trained on from others: sha256 of their names and tumours."""
    tumours = zip(cohort.cases, cohort.conditions, strict=True)
    text = json.dumps([[case, [f"{value:.6g}" for value in row]] for case, row in tumours])
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_another_cohort(directory: Path, digest: str | None) -> None:
    """Check that the stages in a training directory saw the cohort of this digest; stages that kept none pass.

    Raises:
        InvalidInputError: a stage saw other cases, or other tumours of them.
    """
    for stage in STAGES:
        path = directory / stage / "state.json"
        kept = read_json(path).get("cohort") if path.is_file() else None
        if kept is not None and kept != digest:
            raise InvalidInputError(
                f"{directory}: stage {stage} was trained on another cohort (cases were added, left out or changed); "
                "give the same --data and --held-out, or a new --out"
            )


def refuse_other_networks(directory: Path, config: SystemConfig) -> None:
    """Check that a training directory with finished or begun stages belongs to these networks.

    Lengths of the stages, weights of the losses and the sampling defaults may change between sittings.

    Raises:
        InvalidInputError: naming the first part of the configuration that differs.
    """
    if not (directory / SYSTEM_NAME).is_file() or not any((directory / s / "state.json").is_file() for s in STAGES):
        return
    kept = load_system(directory)
    fixed = ("grid", "modalities", "tissues", "vae", "aggregator", "denoiser", "refiner", "schedule")
    for name in fixed:
        if getattr(kept, name) != getattr(config, name):
            raise InvalidInputError(
                f"{directory}: was trained with another {name} (preset {kept.preset}); "
                "give the same --preset, or a new --out"
            )


def measure_normalisation(aggregator: Aggregator, store: LatentStore) -> None:
    """Set the mean training latent and each channel's deviation around it."""
    sample = np.asarray(store.latents[:STATISTICS_CASES], np.float32)
    mean = sample.mean(axis=(0, 1))
    deviation = (sample - mean).std(axis=(0, 1, 2, 4, 5))
    aggregator.normalisation.mean.copy_(torch.from_numpy(mean))
    aggregator.normalisation.scale.copy_(torch.from_numpy(deviation)[:, None, None])


@torch.no_grad()
def measure_latent_scale(aggregator: MosaicAggregator, store: LatentStore) -> None:
    """Set the deviation of each channel of Z."""
    sample = torch.from_numpy(np.asarray(store.latents[:STATISTICS_CASES, 0], np.float32))
    mean = torch.cat([aggregator.posterior(chunk)[0] for chunk in sample.split(8)])
    aggregator.latent_scale.copy_(mean.std(dim=(0, 2, 3))[:, None, None])


def load_refiner(config: SystemConfig, directory: Path) -> Refiner:
    """The trained refiner, without its discriminator."""
    stage = RefinerStage(make_refiner(config), len(config.modalities))
    load_weights(stage, directory, "refiner")
    return stage.refiner


def load_networks(directory: Path, config: SystemConfig) -> dict[str, nn.Module]:
    """The trained networks of a directory in evaluation mode, the refiner if there is one.

    Raises:
        InvalidInputError: a stage is missing or does not fit.
    """
    vae, aggregator = make_vae(config), make_system_aggregator(config)
    load_weights(vae, directory, "autoencoder")
    load_weights(aggregator, directory, "aggregator")
    denoiser = make_denoiser(config, load_conditions(directory)[0])
    load_weights(denoiser, directory, "denoiser" if config.distillation is None else "distill")
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
    torch.manual_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    save_system(directory, config)
    save_conditions(directory, columns, cohort)
    modules: dict[str, nn.Module] = {
        "autoencoder": make_vae(config),
        "aggregator": make_system_aggregator(config),
        "denoiser": make_denoiser(config, columns),
    }  # fmt: skip
    if config.refiner is not None:
        modules["refiner"] = RefinerStage(make_refiner(config), len(config.modalities))
    if config.distillation is not None:
        modules["distill"] = modules["denoiser"]
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

"""What a stage's weights were made from: recorded with them, and compared before anything is built on them.

Each stage's `state.json` names the cohort's content, the weights of every stage before it and the settings that shaped
it. A stage is *finished* once its final weights are stored together with their hash, and *current* while the stages
that it was made from still have the weights that it saw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..engine.decode import decode
from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from .checkpoint import STAGES, read_json, weights_path, write_json
from .config import AnySystem, MaskFirstConfig

STATE_NAME = "state.json"
UPSTREAM: Mapping[str, tuple[str, ...]] = {
    "autoencoder": (),
    "aggregator": ("autoencoder",),
    "denoiser": ("autoencoder", "aggregator"),
    "refiner": ("autoencoder", "aggregator"),
    "distill": ("autoencoder", "aggregator", "denoiser"),
    "mask": (),
}
_SAMPLED = ("autoencoder", "denoiser", "distill")  # that samples are made by which a mask-first refiner learns from
_ADDED = {"start": None, "inputs": {}, "batches": None, "best": None, "stopped": False}  # keys that old records lack
_SETTINGS: Mapping[str, tuple[str, ...]] = {  # parts of the configuration that shape a stage, beside its networks
    "autoencoder": ("autoencoder_loss", "crops"),
    "aggregator": ("aggregator",),
    "denoiser": ("condition_dropout", "denoiser_loss"),
    "refiner": (),
    "distill": ("condition_dropout", "distillation"),
    "mask": ("condition_dropout",),
}


@dataclass(frozen=True)
class Start:
    """The stage of another training directory whose weights a stage began with."""

    weights: str  # sha256
    cohort: str | None  # digest of what that stage was trained on


@dataclass(frozen=True)
class Origin:
    """What a stage is about to be made from."""

    upstream: dict[str, str] = field(default_factory=dict)  # stage -> sha256 of its weights
    settings: dict[str, Any] = field(default_factory=dict)  # key -> value, plain JSON
    inputs: dict[str, str | None] = field(default_factory=dict)  # option -> sha256 of what it reads beside the cohort
    start: Start | None = None


@dataclass(frozen=True)
class EarlierSettings:
    """Settings that a stage was trained with up to a step, before they were changed."""

    until_step: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Best:
    """Which weights did best on held-out cases so far."""

    step: int
    ema_decay: float  # of the moving average
    held_out_loss: float
    tensors: str  # file


@dataclass(frozen=True)
class StageRecord:
    """The content of a stage's `state.json`."""

    step: int  # steps that the saved state has seen
    seed: int
    cohort: str | None  # digest of the prepared images and masks
    upstream: dict[str, str]
    settings: dict[str, Any]
    inputs: dict[str, str | None]
    earlier_settings: tuple[EarlierSettings, ...]
    code_version: str
    tensors: str | None  # file to resume from; None where a stage has no optimisation
    sound: str | None  # the state before, whose loss is known to be finite
    sound_step: int
    finished: bool
    weights: str | None  # sha256 of weights.safetensors once finished
    start: Start | None  # None for one that began with random weights
    batches: int | None = None  # of a step; None in records from before it was kept
    best: Best | None = None  # None where none is chosen
    stopped: bool = False  # ended early, because held-out cases got no better

    def has_ended(self, steps: int) -> bool:
        """Whether nothing is left of a stage of so many steps but to finish it."""
        return self.stopped or self.step >= steps


def read_record(directory: Path, stage: str) -> StageRecord | None:
    """What a stage says of itself; None where it was never begun.

    Raises:
        InvalidInputError: damaged, or written by a version that recorded no lineage.
    """
    path = directory / stage / STATE_NAME
    if not path.is_file():
        return None
    data = read_json(path)
    if "upstream" not in data:
        raise InvalidInputError(
            f"{path}: was written by an earlier version, which did not record what the stage was made from; "
            "train in a new --out"
        )
    return decode(StageRecord, {**_ADDED, **data}, str(path))


def write_record(directory: Path, stage: str, record: StageRecord) -> None:
    """Replace a stage's `state.json` atomically."""
    write_json(directory / stage / STATE_NAME, dataclasses.asdict(record))


def new_record(origin: Origin, seed: int, cohort: str | None) -> StageRecord:
    """The record of a stage that begins."""
    return StageRecord(
        step=0, seed=seed, cohort=cohort, upstream=origin.upstream, settings=origin.settings,
        inputs=origin.inputs, earlier_settings=(),
        code_version=version("sbldm-engine"), tensors=None, sound=None, sound_step=0, finished=False, weights=None,
        start=origin.start,
    )  # fmt: skip


def origin_of(directory: Path, config: AnySystem, stage: str, inputs: Mapping[str, str | None] | None = None) -> Origin:
    """What `stage` would be made from now: the finished weights of the stages before it, and the settings.

    Raises:
        InvalidInputError: a stage before it is missing, unfinished, or not current itself.
    """
    upstream = {name: _finished_weights(directory, config, stage, name) for name in upstream_of(config, stage)}
    return Origin(upstream, settings_of(config, stage), dict(inputs or {}))


def upstream_of(config: AnySystem, stage: str) -> tuple[str, ...]:
    """The stages of this system that a stage is made from, in order."""
    of_samples = stage == "refiner" and isinstance(config, MaskFirstConfig)
    return tuple(name for name in (_SAMPLED if of_samples else UPSTREAM[stage]) if name in config.stages)


def settings_of(config: AnySystem, stage: str) -> dict[str, Any]:
    """The settings that shape a stage's weights, as plain data by key; its number of steps is not among them."""
    values = dataclasses.asdict(config.stages[stage])
    del values["steps"]
    found = {f"stages.{stage}.{name}": value for name, value in values.items()}
    for part in _SETTINGS[stage]:
        if not hasattr(config, part):  # of the other form
            continue
        value = getattr(config, part)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found |= {f"{part}.{name}": _plain(item) for name, item in dataclasses.asdict(value).items()}
        else:
            found[part] = value
    return found


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def changed_settings(record: StageRecord, settings: Mapping[str, Any]) -> list[str]:
    """`key: was old, is new` of every setting that differs from the record's."""
    keys = sorted(record.settings.keys() | settings.keys())
    return [
        f"{key}: was {record.settings.get(key)}, is {settings.get(key)}"
        for key in keys
        if record.settings.get(key) != settings.get(key)
    ]


def outdated_upstream(directory: Path, record: StageRecord) -> list[str]:
    """What a stage was made from and is no longer there, a line each; empty for a current stage."""
    found = []
    for name, seen in record.upstream.items():
        path = weights_path(directory, name)
        now = sha256_file(path) if path.is_file() else "missing"
        if now != seen:
            found.append(f"was made from stage {name} {seen[:12]}, which is now {now[:12]}")
    return found


def was_trained(directory: Path) -> bool:
    """Whether any stage of a directory has a record of training; untrained weights that were only written have none."""
    return any((directory / stage / STATE_NAME).is_file() for stage in STAGES)


def lineage_faults(directory: Path, config: AnySystem) -> list[str]:
    """What keeps the stages of a training directory from being one system, a line each; empty where they fit.

    Weights without any record (made by no training) have no lineage to be wrong.
    """
    if not was_trained(directory):
        return []
    stages = [stage for stage in STAGES if stage in config.stages and weights_path(directory, stage).is_file()]
    faults: list[str] = []
    for stage in stages:
        record = read_record(directory, stage)
        if record is None:
            faults.append(f"stage {stage}: has weights but no {STATE_NAME}; train it again")
            continue
        faults += [f"stage {stage}: {fault}" for fault in outdated_upstream(directory, record)]
        if not record.finished or not record.has_ended(config.stages[stage].steps):
            faults.append(f"stage {stage}: has {record.step} of {config.stages[stage].steps} steps")
        elif (now := sha256_file(weights_path(directory, stage))) != record.weights:
            faults.append(f"stage {stage}: finished with weights {str(record.weights)[:12]}, here are {now[:12]}")
    return faults + (list(_measured_faults(directory)) if isinstance(config, MaskFirstConfig) else [])


def _measured_faults(directory: Path) -> Iterator[str]:
    """What the normalisations beside the stages of a mask-first system were measured on, and is not there any more."""
    encoder, mask = directory / "latents" / "key.json", read_record(directory, "mask")
    weights = weights_path(directory, "autoencoder")
    if encoder.is_file() and weights.is_file():
        seen, now = str(read_json(encoder).get("encoder")), sha256_file(weights)
        if seen != now:
            yield f"latents: were made by stage autoencoder {seen[:12]}, which is now {now[:12]}"
    maps = directory / "masks" / "key.json"
    if maps.is_file() and mask is not None and "--masks" in mask.inputs:
        seen, now = (str(value or "none")[:12] for value in (mask.inputs["--masks"], read_json(maps).get("extra")))
        if seen != now:
            yield f"masks: stage mask was trained on --masks {seen}, its maps are now those of {now}"


def _finished_weights(directory: Path, config: AnySystem, stage: str, name: str) -> str:
    """sha256 of the weights of stage `name`, which `stage` needs.

    Raises:
        InvalidInputError: they are missing, unfinished or outdated.
    """
    record = read_record(directory, name)
    wanted = config.stages[name].steps
    if record is None or not record.finished or record.weights is None:
        have = 0 if record is None else record.step
        raise InvalidInputError(
            f"{directory}: stage {stage} needs stage {name}, which has {have} of {wanted} steps; train {name} first"
        )
    if outdated := outdated_upstream(directory, record):
        raise InvalidInputError(
            f"{directory}: stage {stage} needs stage {name}, which {outdated[0]}; train {name} again first"
        )
    if not record.has_ended(wanted):
        raise InvalidInputError(
            f"{directory}: stage {stage} needs stage {name}, which has {record.step} of {wanted} steps; "
            f"train {name} first"
        )
    return record.weights

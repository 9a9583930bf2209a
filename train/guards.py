"""What a training directory refuses: another cohort, other networks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..engine.errors import InvalidInputError
from .checkpoint import STAGES, SYSTEM_NAME, load_system, read_json
from .config import AnySystem
from .data.cohort import Cohort
from .lineage import Origin, StageRecord, changed_settings

FIXED = (
    "grid", "modalities", "tissues", "vae", "aggregator", "denoiser", "refiner", "schedule",
    "autoencoder", "mask_grid", "mask_denoiser",
)  # fmt: skip


def cohort_digest(cohort: Cohort) -> str:
    """What tells the cases that a system is trained on from others: sha256 of their names and prepared content.

    The file of a prepared case is named by the hash of the images and the mask that it was made from.
    """
    text = json.dumps([[entry.name, entry.path.name] for entry in cohort.entries])
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_another_cohort(directory: Path, digest: str | None) -> None:
    """Check that the stages in a training directory saw the cohort of this digest; stages that kept none pass.

    Raises:
        InvalidInputError: a stage saw other cases, or other images or masks of them.
    """
    for stage in STAGES:
        path = directory / stage / "state.json"
        kept = read_json(path).get("cohort") if path.is_file() else None
        if kept is not None and kept != digest:
            raise InvalidInputError(
                f"{directory}: stage {stage} was trained on another cohort (cases were added or left out, images or "
                "masks were changed, or the preset's augmentation); give the same --data, --held-out and "
                "--add-phantoms, or a new --out"
            )


def refuse_other_networks(directory: Path, config: AnySystem) -> None:
    """Check that a training directory with finished or begun stages belongs to these networks.

    Lengths of the stages, weights of the losses and the sampling defaults may change between sittings.

    Raises:
        InvalidInputError: naming the first part of the configuration that differs.
    """
    if not (directory / SYSTEM_NAME).is_file() or not any((directory / s / "state.json").is_file() for s in STAGES):
        return
    require_same_networks(directory, load_system(directory), config, "give the same --preset, or a new --out")


def require_same_networks(directory: Path, kept: AnySystem, config: AnySystem, way_on: str) -> None:
    """Check that a configuration's networks are those of a training directory (`kept`).

    Raises:
        InvalidInputError: naming the first part that differs, and the way on.
    """
    if type(kept) is not type(config):
        raise InvalidInputError(f"{directory}: was trained with a preset of another form ({kept.preset}); {way_on}")
    for name in FIXED:
        if hasattr(config, name) and getattr(kept, name) != getattr(config, name):
            raise InvalidInputError(f"{directory}: was trained with another {name} (preset {kept.preset}); {way_on}")


def require_same_inputs(directory: Path, stage: str, record: StageRecord, origin: Origin) -> None:
    """Check that a begun stage goes on with the files that it began with.

    Raises:
        InvalidInputError: naming the option and both hashes.
    """
    for option in record.inputs:
        was, now = (str(side.inputs.get(option) or "none")[:12] for side in (record, origin))
        if was != now:
            raise InvalidInputError(
                f"{directory}: stage {stage} was begun with another {option} (sha256 was {was}, is {now}); give the "
                f"same, --restart-stage {stage} to make it again with this one, or a new --out"
            )


def require_same_settings(directory: Path, stage: str, record: StageRecord, origin: Origin, seed: int) -> None:
    """Check that a finished stage was made with the settings that are asked for.

    Raises:
        InvalidInputError: naming each setting that was changed, and the ways on.
    """
    changed = changed_settings(record, origin.settings)
    if record.seed != seed:
        changed.append(f"seed: was {record.seed}, is {seed}")
    if changed:
        listed = "\n  ".join(changed)
        raise InvalidInputError(
            f"{directory}: stage {stage} is finished with other settings:\n  {listed}\n"
            f"Give those settings to keep it, --restart-stage {stage} to make it again with the new ones, or "
            f"--steps {stage}=N above {record.step} to train it on with them."
        )

"""What a training directory refuses: another cohort, other networks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..engine.errors import InvalidInputError
from .checkpoint import STAGES, SYSTEM_NAME, load_system, read_json
from .config import AnySystem
from .data.cohort import Cohort

FIXED = (
    "grid", "modalities", "tissues", "vae", "aggregator", "denoiser", "refiner", "schedule",
    "autoencoder", "mask_grid", "mask_denoiser",
)  # fmt: skip


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


def refuse_other_networks(directory: Path, config: AnySystem) -> None:
    """Check that a training directory with finished or begun stages belongs to these networks.

    Lengths of the stages, weights of the losses and the sampling defaults may change between sittings.

    Raises:
        InvalidInputError: naming the first part of the configuration that differs.
    """
    if not (directory / SYSTEM_NAME).is_file() or not any((directory / s / "state.json").is_file() for s in STAGES):
        return
    kept = load_system(directory)
    if type(kept) is not type(config):
        raise InvalidInputError(
            f"{directory}: was trained with a preset of another form ({kept.preset}); "
            "give the same --preset, or a new --out"
        )
    for name in FIXED:
        if hasattr(config, name) and getattr(kept, name) != getattr(config, name):
            raise InvalidInputError(
                f"{directory}: was trained with another {name} (preset {kept.preset}); "
                "give the same --preset, or a new --out"
            )

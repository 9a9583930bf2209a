"""Varied copies of a cohort's real scans beside them, made once and cached: a training step costs nothing more."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...engine.bundle.manifest import Grid
from ...engine.conditions.columns import COLUMNS
from ...engine.output.measure import measure_tumour
from ..config import AugmentationConfig
from .augment import AugmentSettings, Case, augment
from .cohort import WHOLE, CachedCase, Cohort, Progress, Share, in_processes, load_entry, store_entry

COPIES_VERSION = 1  # raise it when the same case gives another copy
_TRIES = 8  # for a copy whose tumour lies on the grid


def add_copies(
    cohort: Cohort,
    cache_dir: Path,
    settings: AugmentationConfig,
    seed: int,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    share: Share = WHOLE,
) -> Cohort:
    """`cohort` followed by `settings.copies` varied copies of each of its real scans, called NAME+1, NAME+2, ...

    Phantoms have none and lend no lesion: they are varied by being made. A copy is a function of the seed, the settings
    and the real scans of the cohort; what the cache holds of them is not made again. Only a `share` of
    them is made where one is asked for.
    """
    real = [entry for entry in cohort.entries if entry.source == "real"]
    wanted = share.part([(case, number) for case in range(len(real)) for number in range(1, settings.copies + 1)])
    work = partial(
        _cached_copy, real=real, modalities=len(cohort.modalities), settings=settings, seed=seed,
        cache_dir=cache_dir, grid=cohort.grid,
    )  # fmt: skip
    copies: list[CachedCase] = []
    for entry in in_processes(work, wanted, workers):
        copies.append(entry)
        if progress is not None:
            progress(len(copies), len(wanted))
    return dataclasses.replace(cohort, entries=(*cohort.entries, *copies))


def _cached_copy(
    wanted: tuple[int, int],
    *,
    real: Sequence[CachedCase],
    modalities: int,
    settings: AugmentationConfig,
    seed: int,
    cache_dir: Path,
    grid: Grid,
) -> CachedCase:
    """Copy number `wanted[1]` of real scan `wanted[0]`, from the cache where it is there."""
    case, number = wanted
    entry, donors = real[case], [other for i, other in enumerate(real) if i != case]
    told = [COPIES_VERSION, seed, number, settings.carve, settings.rescan, *(one.path.name for one in (entry, *donors))]
    digest = hashlib.sha256(json.dumps(told).encode())
    name, stem = f"{entry.name}+{number}", cache_dir / f"{entry.path.stem}.copy{number}-{digest.hexdigest()[:20]}"
    cached = load_entry(name, stem)
    if cached is None:
        image, label = _varied(entry, donors, modalities, settings, grid, np.random.default_rng([*digest.digest()]))
        measured = measure_tumour(label, grid.spacing_mm).vector(COLUMNS)
        known = np.where(np.isnan(entry.conditions), np.nan, measured)  # shares that nobody knows stay unknown
        path = stem.with_name(stem.name + ".npy")
        cached = dataclasses.replace(entry, name=name, path=path, conditions=tuple(known.tolist()), warnings=())
        store_entry(cached, image, label, json.loads(entry.path.with_suffix(".json").read_text("utf-8"))["file"])
    return dataclasses.replace(cached, copy=number)


def _varied(
    entry: CachedCase,
    donors: Sequence[CachedCase],
    modalities: int,
    settings: AugmentationConfig,
    grid: Grid,
    rng: np.random.Generator,
) -> Case:
    case, chances = _read(entry, modalities), AugmentSettings(carve=settings.carve, rescan=settings.rescan)
    for _ in range(_TRIES):
        lender = [_read(donors[int(rng.integers(len(donors)))], modalities)] if donors else []
        made = augment(case, lender, grid.spacing_mm, rng, chances)
        if made[1].any():
            return made
    return case


def _read(entry: CachedCase, modalities: int) -> Case:
    stacked = np.load(entry.path).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(stacked[:modalities]), np.ascontiguousarray(stacked[modalities])

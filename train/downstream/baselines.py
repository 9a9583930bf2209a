"""What a user gets for nothing of the same real cases: lesions carved from one into another, and warped copies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np

from ...engine.conditions.columns import COLUMNS
from ...engine.output.measure import measure_tumour
from ..data.augment import AugmentSettings, Case, Spacing, carve, warp
from ..data.cohort import CachedCase, Cohort, in_processes, load_entry, store_entry

VERSION = 1  # raise it when the same cases give others
CARVEMIX, WARPED = "carvemix", "warped"
_TRIES = 16  # donors, for a lesion that falls on the receiver's brain


def made_cases(kind: str, cohort: Cohort, count: int, seed: int, cache: Path, workers: int) -> Cohort:
    """`count` cases made of the cohort's, of each in turn, kept in `cache`: functions of them, seed and number.

    `carvemix`: the lesion of another case, with a margin, in it (Zhang et al., "CarveMix", MICCAI 2021); the cohort has
    two cases or more. `warped`: it mirrored and smoothly warped.
    """
    cache.mkdir(parents=True, exist_ok=True)
    work = partial(_made, kind=kind, cohort=cohort, seed=seed, cache=cache)
    return dataclasses.replace(cohort, entries=tuple(in_processes(work, range(count), workers)))


def _made(number: int, *, kind: str, cohort: Cohort, seed: int, cache: Path) -> CachedCase:
    told = [VERSION, kind, seed, number, *(entry.path.name for entry in cohort.entries)]
    digest = hashlib.sha256(json.dumps(told).encode())
    name, entry = f"{kind}-{number:04d}", cohort.entries[number % len(cohort)]
    stem = cache / f"{name}.{digest.hexdigest()[:20]}"
    kept = load_entry(name, stem)
    if kept is not None:
        return kept
    case, rng = read_case(entry.path), np.random.default_rng([*digest.digest()])
    others = [other.path for other in cohort.entries if other is not entry]
    make = _carved if kind == CARVEMIX else _warped
    image, label = make(case, others, cohort.grid.spacing_mm, rng)
    conditions = measure_tumour(label, cohort.grid.spacing_mm).vector(COLUMNS)
    path = stem.with_name(stem.name + ".npy")
    made = CachedCase(name, path, entry.scales, tuple(conditions.tolist()), source=entry.source)
    store_entry(made, image, label, str(entry.path))
    return made


def _carved(case: Case, others: list[Path], spacing_mm: Spacing, rng: np.random.Generator) -> Case:
    """The case as it is where no other's lesion falls on its brain."""
    for at in rng.permutation(len(others))[:_TRIES]:
        made = carve(case, read_case(others[at]), spacing_mm, rng, AugmentSettings().margin_mm)
        if made is not case:
            return made
    return case


def _warped(case: Case, others: list[Path], spacing_mm: Spacing, rng: np.random.Generator) -> Case:
    del others
    made = warp(case, spacing_mm, rng, AugmentSettings())
    return made if made[1].any() else case


def read_case(path: Path) -> Case:
    """Image (modality, x, y, z) and label (x, y, z) of a prepared case."""
    stacked = np.load(path).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(stacked[:-1]), np.ascontiguousarray(stacked[-1])

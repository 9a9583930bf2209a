"""What a user gets for nothing of the same real cases: lesions carved from one into another, and warped copies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ...engine.bundle.manifest import Grid
from ...engine.conditions.columns import COLUMNS
from ...engine.output.measure import measure_tumour
from ..data.augment import AugmentSettings, Case, carve, warp
from ..data.cohort import CachedCase, Cohort, load_entry, store_entry

VERSION = 1  # raise it when the same cases give others
_TRIES = 16  # donors, for a lesion that falls on the receiver's brain

Make = Callable[[Case, list[Path], np.random.Generator], Case]  # a case, the files of the others


def carved(cohort: Cohort, count: int, seed: int, cache: Path) -> Cohort:
    """`count` cases by CarveMix (Zhang et al., MICCAI 2021): the lesion of one case, with a margin, in another.

    The cohort has two cases or more.
    """
    return _made("carvemix", partial(_carved, grid=cohort.grid), cohort, count, seed, cache)


def warped(cohort: Cohort, count: int, seed: int, cache: Path) -> Cohort:
    """`count` mirrored and smoothly warped copies of the cases."""
    return _made("warped", partial(_warped, grid=cohort.grid), cohort, count, seed, cache)


def _made(kind: str, make: Make, cohort: Cohort, count: int, seed: int, cache: Path) -> Cohort:
    """Each made of the next case in turn; a function of the cases, the seed and its number, kept in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    told = [VERSION, kind, seed, *(entry.path.name for entry in cohort.entries)]
    entries = []
    for number in range(count):
        digest = hashlib.sha256(json.dumps([*told, number]).encode())
        name, entry = f"{kind}-{number:04d}", cohort.entries[number % len(cohort)]
        stem = cache / f"{name}.{digest.hexdigest()[:20]}"
        made = load_entry(name, stem)
        if made is None:
            others = [other.path for other in cohort.entries if other is not entry]
            image, label = make(read_case(entry.path), others, np.random.default_rng([*digest.digest()]))
            conditions = measure_tumour(label, cohort.grid.spacing_mm).vector(COLUMNS)
            path = stem.with_name(stem.name + ".npy")
            made = CachedCase(name, path, entry.scales, tuple(conditions.tolist()), source=entry.source)
            store_entry(made, image, label, str(entry.path))
        entries.append(made)
    return dataclasses.replace(cohort, entries=tuple(entries))


def _carved(case: Case, others: list[Path], rng: np.random.Generator, *, grid: Grid) -> Case:
    """The case as it is where no other's lesion falls on its brain."""
    for at in rng.permutation(len(others))[:_TRIES]:
        made = carve(case, read_case(others[at]), grid.spacing_mm, rng, AugmentSettings().margin_mm)
        if made is not case:
            return made
    return case


def _warped(case: Case, others: list[Path], rng: np.random.Generator, *, grid: Grid) -> Case:
    del others
    made = warp(case, grid.spacing_mm, rng, AugmentSettings())
    return made if made[1].any() else case


def read_case(path: Path) -> Case:
    """Image (modality, x, y, z) and label (x, y, z) of a prepared case."""
    stacked = np.load(path).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(stacked[:-1]), np.ascontiguousarray(stacked[-1])

"""Phantoms beside a cohort of one's own: made, brought to the grid and cached, without files in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...engine.bundle.manifest import Grid
from ...engine.errors import InvalidInputError, UsageError
from ..phantom import PHANTOM_MODALITIES, PHANTOM_VERSION, case_name, make_phantom
from .cohort import CachedCase, Cohort, Progress, in_processes, load_entry, report_faults, settings_digest, store_case
from .discover import discover_cases
from .prepare import LABELS
from .read import CaseError, RawCase

_TISSUE_NAMES = {1: "necrosis", 2: "oedema", 3: "enhancing tumour"}


def check_phantoms_fit(data_dir: Path, modalities: Sequence[str], count: int, *, one_tissue: bool = False) -> None:
    """Refuse `count` phantoms beside the cohort in `data_dir` where they could not be of one kind with it.

    Only names and label tables are looked at; nothing is prepared. With `one_tissue` all tumour is one to the model, so
    that a cohort of one label fits too.

    Raises:
        UsageError: `count` is negative.
        InvalidInputError: a modality or a tissue that one has and the other lacks, or cases of the same names.
    """
    if count < 0:
        raise UsageError(f"--add-phantoms {count}: has to be 0 or more")
    if count == 0:
        return
    lacking = [name for name in modalities if name not in PHANTOM_MODALITIES]
    if lacking:
        raise InvalidInputError(
            f"--add-phantoms: phantoms have no {', '.join(lacking)}; they have {', '.join(PHANTOM_MODALITIES)}: "
            "train without phantoms, or on those modalities only"
        )
    cases = discover_cases(data_dir, modalities).cases
    for case in cases:
        tissues = set(case.label_values.values())
        missing = [_TISSUE_NAMES[value] for value in range(1, LABELS) if value not in tissues]
        if missing and not one_tissue:
            raise InvalidInputError(
                f"--add-phantoms: the labels of {data_dir} know no {', '.join(missing)} (case {case.name}), phantoms "
                "have necrosis, oedema and enhancing tumour: train without phantoms, or tell these tissues apart"
            )
    wanted = {case_name(number) for number in range(count)}
    twice = sorted(wanted & {case.name for case in cases})
    if twice:
        raise InvalidInputError(f"--add-phantoms: {data_dir} has a case {twice[0]} already; rename it or its folder")


def add_phantoms(
    cohort: Cohort, cache_dir: Path, count: int, seed: int, *, workers: int = 1, progress: Progress | None = None
) -> Cohort:
    """`cohort` followed by phantoms 0 to `count` - 1 of `seed`, on the anatomies for training.

    What the cache holds of the same seed, grid and version of the generator is not made again.
    Raises `InvalidInputError` where a phantom has no tumour left on the grid.
    """
    work = partial(_cached_phantom, seed=seed, cache_dir=cache_dir, grid=cohort.grid, modalities=cohort.modalities)
    entries: list[CachedCase] = []
    faults: dict[str, list[str]] = {}
    for done, result in enumerate(in_processes(work, range(count), workers), start=1):
        if isinstance(result, CachedCase):
            entries.append(result)
        else:
            faults[case_name(done - 1)] = result
        if progress is not None:
            progress(done, count)
    report_faults(Path("phantoms"), faults, skip_invalid=False)
    return dataclasses.replace(cohort, entries=(*cohort.entries, *entries))


def _cached_phantom(
    case: int, *, seed: int, cache_dir: Path, grid: Grid, modalities: tuple[str, ...]
) -> CachedCase | list[str]:
    name = case_name(case)
    settings = settings_digest(grid, modalities)[:12]
    stem = cache_dir / f"{name}.{settings}.seed{seed}-v{PHANTOM_VERSION}"
    cached = load_entry(name, stem)
    if cached is not None:
        return cached
    phantom = make_phantom(seed, case)
    images = [phantom.image[PHANTOM_MODALITIES.index(modality)] for modality in modalities]
    try:
        return store_case(name, RawCase(images, phantom.label, phantom.affine, "phantom"), grid, stem, "")
    except CaseError as error:
        return error.faults

"""Phantoms beside a cohort of one's own: made, brought to the grid and cached, without files in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...engine.bundle.manifest import Grid
from ...engine.errors import InvalidInputError, UsageError
from ...engine.scans.case import modalities_to_read
from ...engine.scans.cases import CaseFiles, ImageFile
from ...engine.scans.discover import discover_cases
from ...engine.scans.labels import BACKGROUND, ENHANCING, NECROSIS, OEDEMA, LabelMap
from ...engine.scans.options import ReadOptions
from ...engine.scans.read import CaseError
from ..phantom import PHANTOM_MODALITIES, PHANTOM_VERSION, TRAINING, case_name, encoded, make_phantom
from .cohort import (
    WHOLE,
    CachedCase,
    Cohort,
    Progress,
    Share,
    in_processes,
    load_entry,
    make_case,
    report_faults,
    settings_digest,
)

_TISSUE_NAMES = {NECROSIS: "necrosis", OEDEMA: "oedema", ENHANCING: "enhancing tumour"}
_FILE_LABELS = {0: BACKGROUND, 1: NECROSIS, 2: OEDEMA, 4: ENHANCING}


def check_phantoms_fit(
    data_dir: Path,
    modalities: Sequence[str],
    count: int,
    options: ReadOptions | None = None,
    *,
    one_tissue: bool = False,
) -> None:
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
    cases = discover_cases(data_dir, modalities, options).cases
    for case in cases:
        tissues = () if case.meaning.is_binary else set(case.meaning.values.values())
        missing = [name for tissue, name in _TISSUE_NAMES.items() if tissue not in tissues]
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
    cohort: Cohort,
    cache_dir: Path,
    count: int,
    seed: int,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    share: Share = WHOLE,
) -> Cohort:
    """`cohort` followed by phantoms 0 to `count` - 1 of `seed`, on the anatomies for training.

    What the cache holds of the same seed, grid and version of the generator is not made again; only a `share` of
    them is made where one is asked for.
    Raises `InvalidInputError` where a phantom has no tumour left on the grid.
    """
    wanted = share.part(range(count))
    entries = make_phantoms(
        wanted, cache_dir, cohort.grid, cohort.modalities, seed, workers=workers, progress=progress
    )  # fmt: skip
    return dataclasses.replace(cohort, entries=(*cohort.entries, *entries))


def make_phantoms(
    numbers: Sequence[int],
    cache_dir: Path,
    grid: Grid,
    modalities: tuple[str, ...],
    seed: int,
    *,
    anatomies: Sequence[int] = TRAINING,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[CachedCase, ...]:
    """These phantoms of `seed` on `anatomies`, prepared on the grid; what the cache holds of them is not made again.

    Raises `InvalidInputError` where a phantom has no tumour left on the grid.
    """
    work = partial(
        _cached_phantom, seed=seed, cache_dir=cache_dir, grid=grid, modalities=modalities, anatomies=tuple(anatomies)
    )
    entries: list[CachedCase] = []
    faults: dict[str, list[str]] = {}
    for done, (case, result) in enumerate(zip(numbers, in_processes(work, numbers, workers), strict=True), start=1):
        if isinstance(result, CachedCase):
            entries.append(result)
        else:
            faults[case_name(case)] = result
        if progress is not None:
            progress(done, len(numbers))
    report_faults(Path("phantoms"), faults, skip_invalid=False)
    return tuple(entries)


def _cached_phantom(
    case: int, *, seed: int, cache_dir: Path, grid: Grid, modalities: tuple[str, ...], anatomies: tuple[int, ...]
) -> CachedCase | list[str]:
    name = case_name(case)
    others = "" if anatomies == TRAINING else "-on" + "".join(f".{number}" for number in anatomies)
    stem = cache_dir / f"{name}.{settings_digest(grid, modalities)}.seed{seed}-v{PHANTOM_VERSION}{others}"
    cached = load_entry(name, stem)
    if cached is not None:
        return cached
    contents = {Path(f"{name}_{part}.nii"): data for part, data in encoded(make_phantom(seed, case, anatomies)).items()}
    images = {part: ImageFile(Path(f"{name}_{part}.nii")) for part in PHANTOM_MODALITIES}
    files = CaseFiles(name, images, Path(f"{name}_seg.nii"), LabelMap(_FILE_LABELS, "phantoms"))
    wanted = modalities_to_read(files, modalities)
    used = {path: contents[path] for path in (*(images[part].path for part in wanted), Path(f"{name}_seg.nii"))}
    try:
        return make_case(files, modalities, used, grid, stem, ReadOptions())
    except CaseError as error:
        return error.faults

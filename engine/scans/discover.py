"""Which files of a folder belong to which case: public naming conventions, nnU-Net, Decathlon, BIDS, our own runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..bundle.manifest import MODALITIES
from ..errors import InvalidInputError
from .bids import label_table
from .cases import CaseFiles, Discovery, ImageFile
from .dicom import dicom_files, discover_dicom
from .labels import LabelMap
from .names import (
    BIDS,
    CONVENTIONS,
    SEGMENTATION,
    Named,
    is_nifti,
    is_prediction,
    meaning_of,
    named,
    nearest,
    unknown_meaning,
)  # fmt: skip
from .nnunet import discover_nnunet, is_nnunet
from .options import ReadOptions

MAX_NAMED = 5  # unmatched files that a message names


def discover_cases(
    data_dir: Path,
    modalities: Sequence[str] = MODALITIES,
    options: ReadOptions | None = None,
    *,
    dicom: bool = False,
    needs_mask: bool = True,
) -> Discovery:
    """Find the cases below `data_dir`, sorted by name.

    A folder with `dataset.json` beside `imagesTr`, `labelsTr` or a list of cases is read as a data set of nnU-Net or
    the Decathlon; otherwise every file whose name follows one of `names.CONVENTIONS` is taken, at any depth, each real
    folder once. Files that are missing become faults of their case; a folder without any case raises
    `InvalidInputError`. Where there is none of these, and `dicom` is set, every study of DICOM files is a case. A case
    without a mask is faulty where it `needs_mask`.
    """
    data_dir = Path(data_dir)
    options = options or ReadOptions()
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown:
        raise InvalidInputError(f"unknown modality {', '.join(unknown)}; there are {', '.join(MODALITIES)}")
    if not os.path.isdir(data_dir):
        raise InvalidInputError(f"{data_dir}: not a directory; give the folder that holds the cases")
    found = discover_nnunet(data_dir, options) if is_nnunet(data_dir) else _discover_named(data_dir, options)
    if not found.cases and not found.faults and (files := dicom_files(walk(data_dir)[0])):
        if not dicom:
            raise InvalidInputError(
                f"{data_dir}: holds DICOM, which augment (without --insert and --remove) and conditions measure read; "
                "dcm2niix makes NIfTI of it"
            )
        return discover_dicom(data_dir, files, modalities, options)
    if not found.cases and not found.faults:
        raise InvalidInputError(_nothing_found(data_dir, found))
    for case in found.cases:
        missing = [name for name in modalities if name not in case.images]
        here = _unused_beside(case, found.unused)
        if missing:
            there = ", ".join(case.images) or "none"
            found.add_fault(case.name, f"missing modality {', '.join(missing)} (there: {there}{here})")
        if case.label is None and needs_mask:
            found.add_fault(case.name, "missing segmentation" + (f" ({here.removeprefix('; ')})" if here else ""))
    logging.getLogger("sbldm").debug(f"{len(found.cases)} cases found, {len(found.faults)} with faults")
    return found


def _nothing_found(data_dir: Path, found: Discovery) -> str:
    accepted = "; ".join(f"{convention.title}: {convention.shown()}" for convention in reversed(CONVENTIONS))
    seen = f"; not recognised: {_shown(found.unused)}" if found.unused else "; it holds no .nii or .nii.gz file"
    return (
        f"{data_dir}: no case found{seen}. Read are {accepted}, each ending in .nii.gz or .nii, and nnU-Net or "
        "Decathlon data sets (dataset.json with imagesTr and labelsTr)"
    )


def _unused_beside(case: CaseFiles, unused: Sequence[Path]) -> str:
    folders = {image.path.parent for image in case.images.values()} | ({case.label.parent} if case.label else set())
    beside = [path for path in unused if path.parent in folders]
    return f"; not recognised here: {_shown(beside)}" if beside else ""


def _shown(paths: Sequence[Path]) -> str:
    names = [f"{path.name} ({_why(path.name)})" for path in paths[:MAX_NAMED]]
    more = len(paths) - MAX_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _why(name: str) -> str:
    return "a prediction" if is_prediction(name) else f"nearest: {nearest(name)}"


def walk(data_dir: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Every file below a folder, sorted, and the folders that cannot be opened, with the reason.

    Links are followed, but not to what holds `data_dir`, and each real folder is entered once, real names before links;
    hidden names are left out.
    """
    root = Path(os.path.realpath(data_dir))
    files: list[Path] = []
    closed: list[tuple[Path, str]] = []
    seen: set[tuple[int, int]] = set()
    waiting: list[Path] = [data_dir]
    linked: list[Path] = []
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                children = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            closed.append((folder, error.strerror or type(error).__name__))
            continue
        for entry in children:
            path = Path(entry.path)
            if not _is_folder(entry):
                files.append(path)
            elif entry.is_symlink():
                if not root.is_relative_to(os.path.realpath(path)):
                    linked.append(path)
            else:
                waiting.append(path)
    return sorted(files), sorted(closed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that loops: opening it as a file will tell


def _discover_named(data_dir: Path, options: ReadOptions) -> Discovery:
    found = Discovery()
    files, closed = walk(data_dir)
    for folder, reason in closed:
        found.add_fault(folder.name, f"{folder.relative_to(data_dir.parent)}: cannot be opened ({reason})")
    cases: dict[tuple[str, str], dict[str, list[tuple[Path, Named]]]] = {}
    for path in files:
        if not is_nifti(path.name):
            continue
        says = None if is_prediction(path.name) else named(path.name)
        if says is None:
            found.unused.append(path)
            continue
        parts = cases.setdefault((says.case, says.convention.title), {})
        parts.setdefault(says.part, []).append((path, says))
    for (name, title), parts in sorted(cases.items()):
        _add_named(found, data_dir, name, title, parts, options)
    titles = {title for _, title in cases}
    found.convention = "; ".join(f"{c.title} ({c.shown()})" for c in CONVENTIONS if c.title in titles)
    if found.unused and found.cases:
        found.notes.append(f"{len(found.unused)} NIfTI files belong to no case: {_shown(found.unused)}")
    return found


def _add_named(
    found: Discovery,
    data_dir: Path,
    name: str,
    title: str,
    parts: Mapping[str, Sequence[tuple[Path, Named]]],
    options: ReadOptions,
) -> None:
    if found.cases and found.cases[-1].name == name:
        found.add_fault(name, f"is there twice, with names of {found.cases[-1].meaning.source} and of {title}")
        return
    kept = {part: _kept(part, files) for part, files in parts.items()}
    for part, files in kept.items():
        if len(files) > 1:
            shown = ", ".join(str(path.relative_to(data_dir)) for path, _ in files)
            found.add_fault(name, f"{part} is there {len(files)} times: {shown}")
    images = {modality: ImageFile(kept[modality][0][0]) for modality in MODALITIES if modality in kept}
    label, meaning = None, options.labels or LabelMap({0: 0}, f"names of {title}")
    if SEGMENTATION in kept:
        label, mask = kept[SEGMENTATION][0]
        told = options.labels or meaning_of(mask) or _table(mask, label, data_dir)
        if told is None:
            found.add_fault(name, f"{label.name}: {unknown_meaning(mask)}")
        meaning = told or meaning
    found.cases.append(CaseFiles(name, images, label, meaning))


def _kept(part: str, files: Sequence[tuple[Path, Named]]) -> list[tuple[Path, Named]]:
    """Each real file once; of masks those drawn by hand (UPENN-GBM) or with tissues (BIDS), if there are any."""
    real: dict[str, tuple[Path, Named]] = {}
    for path, says in files:
        real.setdefault(os.path.realpath(path), (path, says))
    several = list(real.values())
    if part == SEGMENTATION and len(several) > 1:
        preferred = [(p, n) for p, n in several if not n.spelling.startswith("automated") and not n.is_whole_mask]
        return preferred or several
    return several


def _table(mask: Named, label: Path, data_dir: Path) -> LabelMap | None:
    return label_table(label, data_dir) if mask.convention is BIDS else None

"""One case, opened and judged: what `data check` reports, `train` prepares and `augment` starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cases import CaseFiles
from .options import ReadOptions
from .placement import Extent, Placement, RasGrid, place
from .plausible import Intensities, judge
from .read import CaseError, Contents, RawCase, decode_case


@dataclass(frozen=True)
class LoadedCase:
    """A case without a fault; arrays are (x, y, z) in RAS order (views)."""

    raw: RawCase
    grid: RasGrid  # of the scan
    images: list[NDArray]  # one a modality
    label: NDArray[np.uint8]
    brain: NDArray[np.bool_]  # where any modality is not 0
    intensities: list[Intensities]  # one a modality
    placement: Placement
    warnings: tuple[str, ...]


def modalities_to_read(files: CaseFiles, modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities asked for, and the one that places the field of view where it is none of them."""
    reference = files.reference
    return (*modalities, *([reference] if reference is not None and reference not in modalities else []))


def load_case(
    files: CaseFiles, modalities: Sequence[str], contents: Contents, options: ReadOptions, view_mm: Extent
) -> LoadedCase:
    """Decode, judge and place a case under a field of view of `view_mm`.

    `contents` are those of `modalities_to_read`. Raises `CaseError` with every fault of the case.
    """
    raw = decode_case(files, modalities_to_read(files, modalities), contents, options)
    grid = RasGrid.of(raw.affine, raw.label.shape)
    chosen = {modality: raw.images[modality] for modality in modalities}
    judgement = judge(chosen, {modality: file_name(files, modality) for modality in modalities})
    reference = files.reference
    brain = None if reference is None else grid.turn(raw.images[reference] != 0)
    placement = place(grid, brain, raw.tumour(grid), view_mm)
    faults = [*judgement.faults, *placement.faults(view_mm)]
    if faults:
        raise CaseError(faults)
    return LoadedCase(
        raw, grid, [grid.turn(image) for image in chosen.values()], grid.turn(raw.label), grid.turn(judgement.brain),
        [judgement.intensities[modality] for modality in modalities], placement,
        (*raw.mask.warnings, *placement.warnings(view_mm)),
    )  # fmt: skip


def file_name(files: CaseFiles, modality: str) -> str:
    """A modality's file as messages name it; of a 4D file with its channel."""
    image = files.images[modality]
    if files.study is not None:
        return files.shown(image)
    return image.path.name if image.channel is None else f"{image.path.name} ({modality}, channel {image.channel})"

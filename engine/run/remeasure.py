"""The masks of a run measured again, against what its ledger says of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..folder import Folder
from ..output.layouts import SEGMENTATION
from ..output.measure import measure_tumour
from .description import RunDescription
from .ledger import QUALITY, SampleRecord
from .volumes import UnreadableError, read_volume

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9  # agreement of two measurements of the same voxels


def measurement_faults(folder: Folder, run: RunDescription, record: SampleRecord) -> list[str]:
    """Where the files of an intact record do not show what is recorded of them; one line each.

    On the model's grid every measurement is made again. On another grid the mask was measured before it was brought
    there, so that only its shape, its labels and whether it holds a tumour are compared.
    """
    layout = run.layout()
    path = layout.path(record.sample, SEGMENTATION)
    native, shape = run.file_grid() is None, run.bundle.grid.shape
    try:
        mask = read_volume(folder, run, record.sample, SEGMENTATION)
        if foreign := sorted(set(np.unique(mask).tolist()) - set(layout.label_values)):
            return [f"{path}: holds label {foreign[0]}, the run has {list(layout.label_values)}"]
        if not native:
            return _presence(path, mask, record)
        brain = np.zeros(shape, bool)
        for modality in layout.modalities:
            brain |= read_volume(folder, run, record.sample, modality) > 0
    except (UnreadableError, OSError) as error:
        return [str(error)]
    measured = measure_tumour(layout.array_labels(mask), run.bundle.grid.spacing_mm, brain)
    values = measured.as_row((*run.bundle.columns, *QUALITY))
    return [
        f"{path}: {name} measures {value:g}, recorded is {record.measured[name]}"
        for name, value in values.items()
        if not _agree(value, record.measured[name])
    ]


def _presence(path: str, mask: NDArray[np.uint8], record: SampleRecord) -> list[str]:
    recorded = (record.measured.get("volume_ml") or 0) > 0
    if mask.any() and not recorded:
        return [f"{path}: holds a tumour, recorded is none"]
    return []


def _agree(value: float, recorded: float | None) -> bool:
    if recorded is None:
        return math.isnan(value)
    return math.isclose(value, recorded, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)

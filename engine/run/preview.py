"""The contact sheet of a run, drawn from its files on disk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError
from ..files import write_atomic
from ..folder import Folder
from ..output.layouts import SEGMENTATION, DicomLayout, Layout
from ..output.nifti import read_nifti
from ..output.preview import Scan, draw_sheet
from .description import RunDescription, read_description
from .ledger import LedgerIndex, SampleRecord
from .volumes import UnreadableError, read_case

PREVIEW_NAME = "preview.png"
MAX_ROWS = 6


def write_preview(directory: Path, most: int = MAX_ROWS) -> Path:
    """Write `preview.png` of the first samples of a run; returns its path.

    Raises:
        InvalidInputError: the directory holds no run, or its files cannot be read.
        OSError: the sheet cannot be written.
    """
    run = read_description(directory)
    index = LedgerIndex.of(directory)
    records = [record for record in index.records(sorted(index.places)[: 4 * most]) if record.fault is None][:most]
    layout = run.layout()
    rows = [(caption(record), _scan(directory, run, record.sample)) for record in records]
    sheet = draw_sheet(rows, layout, run.origin)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    path = directory / PREVIEW_NAME
    write_atomic(path, data.getvalue(), private=run.is_derived)
    return path


def _scan(directory: Path, run: RunDescription, sample: int) -> Scan:
    layout = run.layout()
    if not isinstance(layout, DicomLayout):
        return read_scan(directory, layout, sample)
    try:
        with Folder(directory) as folder:
            case = read_case(folder, run, sample)
    except (UnreadableError, OSError) as error:
        raise InvalidInputError(f"{directory}: {error}") from error
    return Scan(case.image, case.label, tuple(float(s) for s in np.diag(case.affine)[:3]))  # type: ignore[arg-type]


def read_scan(directory: Path, layout: Layout, sample: int) -> Scan:
    """A sample of a run from its files; InvalidInputError when they cannot be read."""
    paths = layout.paths(sample)
    read = {role: read_nifti(directory / paths[role]) for role in layout.roles}
    label, affine = read[SEGMENTATION]
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    image = np.stack([read[modality][0] for modality in layout.modalities])
    return Scan(image, layout.array_labels(label), spacing)  # type: ignore[arg-type]


def caption(record: SampleRecord) -> str:
    """What was asked for and what came out, in one line."""
    asked, got = record.requested.get("volume_ml"), record.measured.get("volume_ml")
    volumes = "" if asked is None or got is None else f"    tumour {got:.1f} ml, asked {asked:.1f} ml"
    if asked is not None and got == 0:
        volumes = f"    a tumour of {asked:.1f} ml taken out"
    own = f" ({record.id})" if record.id != str(record.sample) else ""
    return f"sample {record.sample}{own}{volumes}"

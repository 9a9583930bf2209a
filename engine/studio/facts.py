"""What the page needs to know of the model before it asks for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..bundle.manifest import SEGMENTATION, BundleManifest
from ..bundle.report import usual_range
from ..conditions.rules import column_ranges
from ..conditions.unusual import column_ranges as cohort_ranges
from ..generator import Generator
from ..output.layouts import make_layout
from ..output.preview import TISSUE_COLOURS
from ..report.words import modality_name, quantities, tissue_names
from ..run.options import asked_sampling, most_steps
from ..versions import installed


def model_facts(generator: Generator) -> dict[str, Any]:
    """Model, columns with their ranges, tissues with their colours, defaults; as JSON."""
    manifest, backend = generator.bundle.manifest, generator.backend
    grid = manifest.grid
    layout = make_layout("brats", manifest.modalities, manifest.labels)
    colours = TISSUE_COLOURS[1:].astype(int).tolist()
    tissues = [
        {"name": name, "value": int(layout.label_values[k + 1]), "colour": colours[k % len(colours)]}
        for k, name in enumerate(tissue_names(manifest.labels))
    ]
    return {
        "model": manifest.id, "version": installed("sbldm-engine"), "form": manifest.form, "mask": SEGMENTATION,
        "takes_masks": manifest.mask_first is not None, "cases": manifest.cohort.cases,
        "data": manifest.provenance.data, "use": manifest.intended_use,
        "modalities": [{"key": name, "name": modality_name(name)} for name in manifest.modalities],
        "tissues": tissues, "columns": _columns(manifest), "fov_mm": list(grid.fov_mm),
        "voxels": list(grid.shape), "defaults": vars(manifest.defaults), "most_steps": most_steps(manifest),
        "case_steps": asked_sampling(manifest, from_case=True).steps,
        "backend": f"{backend.name} on {backend.device}", "directory": str(Path.cwd()),
    }  # fmt: skip


def _columns(manifest: BundleManifest) -> list[dict[str, Any]]:
    names = [column.name for column in manifest.condition_columns]
    allowed = column_ranges(names, manifest.grid.fov_mm)
    theirs = cohort_ranges(manifest.cohort)
    usual = {column.name: usual_range(column) for column in manifest.condition_columns}
    return [
        {
            "name": kind.column, "title": kind.short or kind.name, "words": kind.name, "unit": kind.unit,
            "factor": kind.factor, "offset": kind.offset, "allowed": str(allowed[kind.column]),
            "low": float(theirs[k, 0]),
            "high": float(theirs[k, 1]), "usual": usual[kind.column],
            "most": float(min(allowed[kind.column].high, 1e9)),
        }
        for k, kind in enumerate(quantities(names, manifest.grid))
    ]  # fmt: skip

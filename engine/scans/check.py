"""What the program sees in a data set, case by case, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle.manifest import TISSUES
from ..errors import InvalidInputError
from .case import LoadedCase, load_case, modalities_to_read
from .cases import CaseFiles, Discovery
from .discover import discover_cases
from .measure import one_label_note
from .options import ReadOptions
from .placement import Extent
from .read import CaseError, read_contents


@dataclass(frozen=True)
class CaseReport:
    """What was found of one case; of a faulty one its faults only."""

    case: str
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    found: dict[str, Any] = field(default_factory=dict)  # tissues_ml, shape, spacing_mm, orientation, ...

    @property
    def is_sound(self) -> bool:
        """Whether `train` takes it."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"case": self.case, "ok": self.is_sound, "faults": self.faults, "warnings": self.warnings, **self.found}

    def lines(self) -> list[str]:
        """One line of figures, then one a warning and a fault."""
        head = f"{self.case}: {'ok' if self.is_sound else 'FAULT'}"
        if self.found:
            head += f": {_figures(self.found)}"
        return [head, *(f"  fault: {text}" for text in self.faults), *(f"  warning: {text}" for text in self.warnings)]


class DataCheck:
    """The check of one folder: iterate over its cases, then ask for what holds of all of them."""

    def __init__(
        self, data_dir: Path, modalities: Sequence[str], view_mm: Extent, options: ReadOptions | None = None
    ) -> None:
        """`view_mm` is the model's field of view. Raises `InvalidInputError`: no directory, or no case in it."""
        self.options = options or ReadOptions()
        self.modalities, self.view_mm = tuple(modalities), view_mm
        self.discovery: Discovery = discover_cases(data_dir, modalities, self.options)
        self.reports: list[CaseReport] = []
        self._label_values: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self.discovery.cases)

    def cases(self) -> Iterator[tuple[CaseReport, LoadedCase | None]]:
        """Each case in the order of names, one opened at a time; then what is faulty without being a case."""
        faults = self.discovery.faults
        for files in self.discovery.cases:
            report, loaded = self._check(files, faults.get(files.name, []))
            self.reports.append(report)
            yield report, loaded
        names = {files.name for files in self.discovery.cases}
        for name in sorted(faults.keys() - names):
            report = CaseReport(name, tuple(faults[name]))
            self.reports.append(report)
            yield report, None

    @property
    def notes(self) -> list[str]:
        """Warnings that belong to no single case; complete once all cases are seen."""
        told = any(files.meaning.is_told for files in self.discovery.cases)
        note = None if told else one_label_note(self._label_values)
        return [*self.discovery.notes, *([note] if note else [])]

    @property
    def faulty(self) -> list[CaseReport]:
        """The reports with faults, of the cases seen by now."""
        return [report for report in self.reports if not report.is_sound]

    def _check(self, files: CaseFiles, faults: Sequence[str]) -> tuple[CaseReport, LoadedCase | None]:
        if faults:
            return CaseReport(files.name, tuple(faults)), None
        try:
            contents = read_contents(files, modalities_to_read(files, self.modalities))
            loaded = load_case(files, self.modalities, contents, self.options, self.view_mm)
        except (CaseError, InvalidInputError) as error:
            return CaseReport(files.name, tuple(getattr(error, "faults", [str(error)]))), None
        self._label_values.append(loaded.raw.mask.values)
        return CaseReport(files.name, (), loaded.warnings, _found(files, self.modalities, loaded)), loaded


def _found(files: CaseFiles, modalities: Sequence[str], loaded: LoadedCase) -> dict[str, Any]:
    header, mask, placement = loaded.raw.header, loaded.raw.mask, loaded.placement
    volumes = [round(voxels * header.voxel_ml, 4) for voxels in mask.tissue_voxels]
    tissues = dict(zip(TISSUES, volumes, strict=True))
    return {
        "labels": files.meaning.described(),
        "tissues_ml": {"tumour": tissues["ncr"]} if files.meaning.is_binary else tissues,
        "cavity_ml": round(mask.cavity_voxels * header.voxel_ml, 4),
        "shape": header.shape[:3],
        "spacing_mm": [round(size, 4) for size in header.spacing_mm],
        "orientation": header.codes,
        "is_oblique": loaded.grid.is_oblique,
        "field_of_view": {
            "centred_on": "brain" if placement.is_on_brain else "scan",
            "moved_mm": [round(mm, 2) for mm in placement.moved_mm],
            "brain_outside_percent": round(100 * placement.brain_loss, 3),
            "tumour_outside_percent": round(100 * placement.tumour_loss, 3),
        },
        "scales": {m: float(f"{one.scale:.6g}") for m, one in zip(modalities, loaded.intensities, strict=True)},
        "brain_share": {m: round(one.brain_share, 4) for m, one in zip(modalities, loaded.intensities, strict=True)},
    }


def _figures(found: dict[str, Any]) -> str:
    tissues = ", ".join(f"{name} {ml:.4g} ml" for name, ml in found["tissues_ml"].items())
    cavity = f", cavity {found['cavity_ml']:.4g} ml" if found["cavity_ml"] else ""
    shape, spacing = (" x ".join(f"{n:.4g}" for n in found[key]) for key in ("shape", "spacing_mm"))
    view = found["field_of_view"]
    lost = (
        f"{view['brain_outside_percent']:g} % of the brain, {view['tumour_outside_percent']:g} % of the tumour outside"
    )
    scales = ", ".join(f"{modality} {scale:.4g}" for modality, scale in found["scales"].items())
    oblique = ", oblique" if found["is_oblique"] else ""
    return (
        f"{tissues}{cavity} | {found['orientation']}{oblique}, {shape} of {spacing} mm | field of view on the "
        f"{view['centred_on']}, {lost} | +1 is {scales}"
    )

"""What the columns, tissues and modalities are called on the page, and in which units they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bundle.manifest import Grid
from ..output.preview import MODALITY_NAMES, TISSUE_NAMES


@dataclass(frozen=True)
class Quantity:
    """A condition column as people read it: shown = value x `factor` + `offset`."""

    column: str
    name: str
    unit: str
    factor: float = 1.0
    offset: float = 0.0
    digits: int = 1
    short: str = ""  # name where there is little room, beside others of its kind

    def shown(self, value: float) -> float:
        """A value of the condition table in the unit shown."""
        return value * self.factor + self.offset

    def text(self, value: float | None) -> str:
        """A value of the condition table as text; a dash where there is none."""
        if value is None or value != value:
            return "–"
        return f"{self.shown(value):.{self.digits}f}"

    def difference(self, requested: float, measured: float | None) -> str:
        """Measured less requested as text, in the unit shown."""
        if measured is None or measured != measured or requested != requested:
            return "–"
        text = f"{(measured - requested) * self.factor:+.{self.digits}f}"
        return text if float(text) else text[1:]


def quantities(columns: Sequence[str], grid: Grid) -> tuple[Quantity, ...]:
    """The quantities of a bundle's columns; places are millimetres from the centre of the field of view, in RAS."""
    x, y, z = grid.fov_mm
    known = {
        "volume_ml": Quantity("volume_ml", "volume", "ml"),
        "surface_cm2": Quantity("surface_cm2", "surface", "cm²"),
        "sphericity": Quantity("sphericity", "sphericity", "", digits=2),
        "x": Quantity("x", "centre to the right", "mm", x, -x / 2, short="to the right"),
        "y": Quantity("y", "centre to the front", "mm", y, -y / 2, short="to the front"),
        "z": Quantity("z", "centre to the top", "mm", z, -z / 2, short="to the top"),
        "w": Quantity("w", "width (right–left)", "mm", x, short="width"),
        "h": Quantity("h", "depth (front–back)", "mm", y, short="depth"),
        "d": Quantity("d", "height (top–bottom)", "mm", z, short="height"),
        "ncr_share": Quantity("ncr_share", "necrotic core", "%", 100.0),
        "ed_share": Quantity("ed_share", "oedema", "%", 100.0),
        "et_share": Quantity("et_share", "enhancing tumour", "%", 100.0),
    }
    return tuple(known[column] for column in columns)


def modality_name(modality: str) -> str:
    """A modality as people write it."""
    return MODALITY_NAMES.get(modality, modality)


def tissue_names(labels: Sequence[str]) -> list[str]:
    """The classes after the background as people call them."""
    return [TISSUE_NAMES.get(label, label) for label in labels[1:]]

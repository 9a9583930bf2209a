"""How volumes are drawn, in previews, data sheets, evaluation and training alike, and the contact sheet of a run.

A row shows a case's modalities with the tumour outlined, its tissues, and the two other planes. Axial, coronal and
sagittal sections lie where the tumour is largest; as radiologists see them, the patient's right is on the left, and
letters at the edges of each picture (R L A P S I) say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..dicom.about import shown
from .layouts import Layout

PIXELS_A_MM = 1.5
_MARGIN_MM = 8.0  # room for the letters
_GAP, _CAPTION, _HEADER = 8, 26, 30
_PAPER, _INK, _FAINT, _MARK = (18, 18, 22), (235, 235, 235), (150, 150, 158), (250, 204, 68)
TISSUE_COLOURS = np.array([[0, 0, 0], [222, 73, 104], [72, 187, 120], [250, 204, 68]], np.float32)
TISSUE_NAMES = {"ncr": "necrotic core", "ed": "oedema", "et": "enhancing tumour"}
MODALITY_NAMES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
_WINDOW_PERCENTILE = 99.7
_LETTERS = {2: ("R", "L", "A", "P"), 1: ("R", "L", "S", "I"), 0: ("A", "P", "S", "I")}
"""Left, right, upper and lower edge of a section across an axis."""
_LETTER_PIXELS = 13

Rgb = NDArray[np.float32]  # (height, width, 3), 0..255


@dataclass(frozen=True)
class Scan:
    """A sample as read from its files."""

    image: NDArray[np.float32]  # (modality, x, y, z) RAS+
    label: NDArray[np.uint8]  # (x, y, z)
    spacing_mm: tuple[float, float, float]


def draw_sheet(samples: list[tuple[str, Scan]], layout: Layout, origin: str = "") -> Image.Image:
    """The sheet of these samples, a caption and a row each; `origin` is what they were made from."""
    scans = cropped([scan for _, scan in samples])
    rows = [(caption, panels(scan)) for (caption, _), scan in zip(samples, scans, strict=True)]
    titles = row_titles(layout.modalities)
    widths = [max((row[i].shape[1] for _, row in rows), default=160) for i in range(len(titles))]
    heights = [max(panel.shape[0] for panel in row) for _, row in rows]
    width = sum(widths) + _GAP * (len(widths) + 1)
    height = _HEADER + sum(heights) + (_CAPTION + _GAP) * len(rows) + _HEADER
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [_GAP + sum(widths[:i]) + _GAP * i for i in range(len(widths))]
    for left, panel_width, title in zip(lefts, widths, titles, strict=True):
        pen.text((left + panel_width / 2, _HEADER / 2), title, _INK, ImageFont.load_default(16), anchor="mm")
    top = _HEADER
    for (text, row), row_height in zip(rows, heights, strict=True):
        pen.text((_GAP + 2, top + _CAPTION / 2), text, _INK, ImageFont.load_default(14), anchor="lm")
        for left, panel_width, panel in zip(lefts, widths, row, strict=True):
            picture = Image.fromarray(np.rint(panel).astype(np.uint8))
            place = (left + (panel_width - panel.shape[1]) // 2, top + _CAPTION + (row_height - panel.shape[0]) // 2)
            sheet.paste(picture, place)
        top += _CAPTION + row_height + _GAP
    _legend(pen, layout, (_GAP + 2, height - _HEADER // 2), width, shown(origin))
    return sheet


def cropped(scans: list[Scan]) -> list[Scan]:
    """The scans (on one grid) cut to the smallest box around all their brains, with a margin."""
    if not scans:
        return []
    foreground = np.logical_or.reduce([(scan.image > 0).any(axis=0) for scan in scans])
    if not foreground.any():
        return scans
    found = ndimage.find_objects(foreground.astype(np.uint8))[0]
    margins = [round(_MARGIN_MM / s) for s in scans[0].spacing_mm]
    box = tuple(slice(max(part.start - m, 0), part.stop + m) for part, m in zip(found, margins, strict=True))
    return [Scan(scan.image[(slice(None), *box)], scan.label[box], scan.spacing_mm) for scan in scans]


def panels(scan: Scan, cuts: Sequence[int] | None = None, pixels_a_mm: float = PIXELS_A_MM) -> list[Rgb]:
    """The row of one sample: axial modalities, axial tissues, then coronal and sagittal of the last modality.

    `cuts`: index of the section across x, y and z; by default where the tumour is largest.
    """
    places = cuts or widest_cuts(scan.label)
    windows = [_window(modality) for modality in scan.image]

    def section(number: int, axis: int) -> tuple[Rgb, NDArray[np.uint8]]:
        return _section(scan.image[number], windows[number], scan, axis, places[axis], pixels_a_mm)

    row = [_lettered(_outlined(*section(number, 2)), 2) for number in range(len(scan.image))]
    row.append(_lettered(_filled(*section(min(1, len(scan.image) - 1), 2)), 2))
    return row + [_lettered(_outlined(*section(-1, axis)), axis) for axis in (1, 0)]


def row_titles(modalities: Sequence[str]) -> list[str]:
    """What stands above the pictures of `panels`."""
    return [*(MODALITY_NAMES.get(m, m) for m in modalities), "tissues", "coronal", "sagittal"]


def widest_cuts(label: NDArray[np.uint8] | NDArray[np.bool_]) -> list[int]:
    """Index along x, y and z of the sections with most tumour; the middle where there is none."""
    return [_widest_cut(label, axis) for axis in range(3)]


def _widest_cut(label: NDArray[np.uint8] | NDArray[np.bool_], axis: int) -> int:
    area = np.count_nonzero(label, axis=tuple(a for a in range(3) if a != axis))
    return int(area.argmax()) if area.any() else label.shape[axis] // 2


def _window(modality: NDArray[np.float32]) -> float:
    foreground = modality[modality > 0]
    return float(np.percentile(foreground, _WINDOW_PERCENTILE)) if foreground.size else 1.0


def _section(
    modality: NDArray[np.float32], top: float, scan: Scan, axis: int, cut: int, pixels_a_mm: float
) -> tuple[Rgb, NDArray[np.uint8]]:
    """Grey picture and labels (height, width) of one section."""
    grey = np.clip(np.take(modality, cut, axis) / top, 0, 1) * 255
    label = np.take(scan.label, cut, axis)
    across, up = (i for i in range(3) if i != axis)
    size = tuple(max(1, round(scan.label.shape[i] * scan.spacing_mm[i] * pixels_a_mm)) for i in (across, up))
    fine = _resized(_upright(grey), size, Image.Resampling.BICUBIC)
    shares = [
        _resized(_upright((label == v).astype(np.float32)), size, Image.Resampling.BILINEAR)
        for v in range(len(TISSUE_COLOURS))
    ]
    return np.repeat(np.clip(fine, 0, 255)[..., None], 3, axis=2), np.argmax(shares, axis=0).astype(np.uint8)


def _upright(section: NDArray[np.float32]) -> NDArray[np.float32]:
    """(across, up) with growing RAS coordinates to (row, column): up is up, the patient's right or front is left."""
    return np.ascontiguousarray(section[::-1, ::-1].T, np.float32)


def _resized(section: NDArray[np.float32], size: tuple[int, ...], method: Image.Resampling) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(section).resize((size[0], size[1]), method), np.float32)


def _outlined(picture: Rgb, label: NDArray[np.uint8]) -> Rgb:
    """The whole tumour outlined in the colour of oedema, the core within in that of enhancing tumour."""
    result = picture.copy()
    regions = [(label > 0, 2), ((label == 1) | (label == 3), 3)] if label.max(initial=0) > 1 else [(label > 0, 3)]
    for region, colour in regions:
        edge = region & np.logical_not(ndimage.binary_erosion(region, border_value=1))
        result[edge] = 0.15 * result[edge] + 0.85 * TISSUE_COLOURS[colour]
    return result


def _lettered(picture: Rgb, axis: int) -> Rgb:
    """The picture of a section across `axis` with the directions of the patient at its edges."""
    sheet = Image.fromarray(np.rint(picture).astype(np.uint8))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTER_PIXELS)
    width, height = sheet.size
    places = ((1, height / 2, "lm"), (width - 1, height / 2, "rm"), (width / 2, 1, "mt"), (width / 2, height - 1, "mb"))
    for letter, (across, down, anchor) in zip(_LETTERS[axis], places, strict=True):
        pen.text((across, down), letter, _MARK, font, anchor=anchor, stroke_width=1, stroke_fill=_PAPER)
    return np.asarray(sheet, np.float32)


def _filled(picture: Rgb, label: NDArray[np.uint8]) -> Rgb:
    tissue = (label > 0)[..., None]
    return np.where(tissue, 0.45 * picture + 0.55 * TISSUE_COLOURS[label], picture).astype(np.float32)


def _legend(pen: ImageDraw.ImageDraw, layout: Layout, place: tuple[int, int], width: int, what: str) -> None:
    left, middle = place
    font = ImageFont.load_default(13)
    names = layout.labels[1:] if len(layout.labels) == len(TISSUE_COLOURS) else ()
    for value, name in enumerate(names, start=1):
        colour = tuple(int(c) for c in TISSUE_COLOURS[value])
        pen.rectangle((left, middle - 6, left + 12, middle + 6), fill=colour)
        text = TISSUE_NAMES.get(name, name)
        pen.text((left + 18, middle), text, _INK, font, anchor="lm")
        left += 18 + int(pen.textlength(text, font)) + 18
    note = f"SYNTHETIC, {what}.  R right, L left, A front, P back, S top, I bottom of the patient"
    pen.text((width - _GAP - 2, middle), note, _FAINT, font, anchor="rm")

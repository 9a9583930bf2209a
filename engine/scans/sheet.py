"""A contact sheet of a data set: one row of pictures a case, drawn as those of a run are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..output.preview import PIXELS_A_MM, Scan, cropped, panels, row_titles
from .case import LoadedCase
from .check import CaseReport

MAX_ROWS = 200
_CELL, _GAP, _CAPTION = 190, 6, 22
_PAPER, _INK, _FAULT = (18, 18, 22), (235, 235, 235), (222, 73, 104)
_CAPTION_LETTERS = 230


class Sheet:
    """Rows are drawn as cases come, so memory holds pictures only."""

    def __init__(self, modalities: Sequence[str]) -> None:
        self._titles = row_titles(modalities)
        self._rows: list[Image.Image] = []

    def add(self, report: CaseReport, case: LoadedCase | None) -> None:
        """A case's row; of a faulty one its faults. Beyond `MAX_ROWS` cases are left out."""
        if len(self._rows) >= MAX_ROWS:
            return
        width = len(self._titles) * (_CELL + _GAP) + _GAP
        row = Image.new("RGB", (width, _CAPTION + (_CELL if case else 0) + _GAP), _PAPER)
        pen = ImageDraw.Draw(row)
        text = report.lines()[0] if report.is_sound else f"{report.case}: {'; '.join(report.faults)}"
        colour = _INK if report.is_sound else _FAULT
        font = ImageFont.load_default(11)
        pen.text((_GAP, _CAPTION / 2), text[:_CAPTION_LETTERS], colour, font, anchor="lm")
        if case is not None:
            for place, picture in enumerate(_pictures(case)):
                left = _GAP + place * (_CELL + _GAP)
                row.paste(picture, (left + (_CELL - picture.width) // 2, _CAPTION + (_CELL - picture.height) // 2))
        self._rows.append(row)

    def draw(self) -> Image.Image:
        """The sheet."""
        width = len(self._titles) * (_CELL + _GAP) + _GAP
        sheet = Image.new("RGB", (width, _CAPTION + sum(row.height for row in self._rows)), _PAPER)
        pen = ImageDraw.Draw(sheet)
        for place, title in enumerate(self._titles):
            centre = _GAP + place * (_CELL + _GAP) + _CELL / 2
            pen.text((centre, _CAPTION / 2), title, _INK, ImageFont.load_default(13), anchor="mm")
        top = _CAPTION
        for row in self._rows:
            sheet.paste(row, (0, top))
            top += row.height
        return sheet


def _pictures(case: LoadedCase) -> list[Image.Image]:
    scan = Scan(np.stack(case.images).astype(np.float32), case.label, case.grid.spacing_mm)
    (scan,) = cropped([scan])
    longest_mm = max(voxels * side for voxels, side in zip(scan.label.shape, scan.spacing_mm, strict=True))
    drawn = panels(scan, pixels_a_mm=min(PIXELS_A_MM, _CELL / longest_mm))
    return [Image.fromarray(np.rint(panel).astype(np.uint8)) for panel in drawn]

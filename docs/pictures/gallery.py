"""Draw the pictures of docs/gallery.md with the shipped model: `python docs/pictures/gallery.py`.

Every picture is synthetic: samples of the bundle `glioma`, and procedural cases (extra `train`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import sbldm
from PIL import Image
from sbldm.engine.output.layouts import make_layout
from sbldm.engine.output.preview import Scan, draw_sheet
from sbldm.train.phantom import make_phantom

HERE = Path(__file__).parent
SEED = 11
WIDTH = 1400  # pixels
LAYOUT = make_layout("brats", ("t1", "t1ce", "t2", "flair"), ("background", "ncr", "ed", "et"))
PLACE = {"x": 0.36, "y": 0.42, "z": 0.60}
SHARES = ("ncr_share", "ed_share", "et_share")
SHEETS: dict[str, dict[str, dict[str, float]]] = {
    "gallery_volume": {f"{ml} ml": {"volume_ml": ml, **PLACE} for ml in (5, 25, 70, 130)},
    "gallery_place": {
        "right, in front": {"volume_ml": 30, "x": 0.66, "y": 0.66, "z": 0.56},
        "right, at the back": {"volume_ml": 30, "x": 0.66, "y": 0.32, "z": 0.55},
        "left, high": {"volume_ml": 30, "x": 0.38, "y": 0.48, "z": 0.68},
    },
    "gallery_shares": {
        "5 % necrosis, 85 % oedema, 10 % enhancing": dict(zip(SHARES, (0.05, 0.85, 0.10), strict=True)),
        "35 % necrosis, 25 % oedema, 40 % enhancing": dict(zip(SHARES, (0.35, 0.25, 0.40), strict=True)),
    },
}


def main() -> None:
    """Every sheet into this folder."""
    with sbldm.load("glioma") as generator:
        for name, rows in SHEETS.items():
            _save(name, [_sample(generator, text, row) for text, row in rows.items()])
    _save("gallery_phantoms", [_phantom(case) for case in range(2)])


def _sample(generator: sbldm.Generator, text: str, row: Mapping[str, float]) -> tuple[str, Scan]:
    """Caption and volumes of one wish: always sample 0 of the seed, so that only the wish differs."""
    sample = generator.sample(0, conditions=[{"volume_ml": 60, **PLACE, **row}], seed=SEED)
    got = sample.measured
    necrosis, oedema, enhancing = (round(100 * getattr(got, share)) for share in SHARES)
    told = f"{got.volume_ml:.0f} ml, {necrosis} % necrosis, {oedema} % oedema, {enhancing} % enhancing"
    scan = Scan(sample.image.astype(np.float32), sample.label, sample.grid.spacing_mm)
    return f"asked: {text}    measured: {told}", scan


def _phantom(case: int) -> tuple[str, Scan]:
    made = make_phantom(SEED, case)
    return f"phantom {case} of seed {SEED}", Scan(made.image.astype(np.float32), made.label, (1.0, 1.0, 1.0))


def _save(name: str, rows: list[tuple[str, Scan]]) -> None:
    sheet = draw_sheet(rows, LAYOUT)
    smaller = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    smaller.save(HERE / f"{name}.jpg", quality=88, subsampling=0)


if __name__ == "__main__":
    main()

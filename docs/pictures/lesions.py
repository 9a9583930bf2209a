"""Draw the pictures of docs/masks.md: `python docs/pictures/lesions.py BUNDLE` (extra `train`; mask-first form).

The scan is a phantom on an anatomy that no training sees, so that no patient is shown.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sbldm.cli.main import main as command
from sbldm.engine.output.layouts import make_layout
from sbldm.engine.output.measure import measure_tumour
from sbldm.engine.output.nifti import read_nifti
from sbldm.engine.output.preview import Scan, draw_sheet
from sbldm.train.phantom import HELD_OUT, write_cohort

HERE = Path(__file__).parent
SEED, WIDTH = 7, 1400  # of the phantom; pixels
LAYOUT = make_layout("brats", ("t1", "t1ce", "t2", "flair"), ("background", "ncr", "ed", "et"))


def main(bundle: str) -> None:
    """`lesions.jpg`: the phantom, a lesion put into its healthy hemisphere, its own lesion taken out; a series."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder / "cohort", 1, SEED, 1, lambda done: None, anatomies=HELD_OUT)
        (scan,) = (path for path in (folder / "cohort").iterdir() if path.is_dir())
        own = _read(scan)
        tumour = measure_tumour(own.label, (1.0, 1.0, 1.0))
        table = folder / "row.csv"
        table.write_text(f"x,y,z,ncr_share,ed_share,et_share\n{1 - tumour.x},{tumour.y},{tumour.z},.2,.5,.3\n")
        asked = ["augment", str(scan), "--bundle", bundle, "--quiet", "--seed", "1"]
        volumes = "8,20,40"
        runs = {"in": ["--insert", "--conditions", str(table), "--volumes", volumes], "out": ["--remove"]}
        for out, more in runs.items():
            if command([*asked, *more, "--out", str(folder / out)]) != 0:
                raise SystemExit(f"augment {out} failed")
        rows = [("a phantom, its own lesion outlined", own)]
        for number, ml in enumerate(volumes.split(",")):
            made = _read(folder / "in" / f"sbldm-{number:06d}")
            new = np.where(made.label != own.label, made.label, np.uint8(0))
            rows.append((f"--insert, {ml} ml of a series (outlined)", Scan(made.image, new, made.spacing_mm)))
        without = _read(folder / "out" / "sbldm-000000")
        rows.append(("--remove (outlined: where it was)", Scan(without.image, own.label, own.spacing_mm)))
    sheet = draw_sheet(rows, LAYOUT)
    smaller = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    smaller.save(HERE / "lesions.jpg", quality=88, subsampling=0)


def _read(folder: Path) -> Scan:
    parts = {path.name.split(".")[0].rsplit("_", 1)[-1]: path for path in folder.glob("*.nii*")}
    image = np.stack([read_nifti(parts[modality])[0] for modality in LAYOUT.modalities])
    label, affine = read_nifti(parts["seg"])
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return Scan(image, LAYOUT.array_labels(label), (x, y, z))


if __name__ == "__main__":
    main(sys.argv[1])

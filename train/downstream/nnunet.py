"""nnU-Net 2 as a segmenter: its data set written, then its own planning, training and prediction in another process.

nnU-Net keeps its folders in the environment, read once when it is imported, and prints a lot: hence the process, whose
output goes to `nnunet.log`. A training that was killed goes on from nnU-Net's last checkpoint.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import Grid
from ...engine.errors import IncompleteRunError, UsageError
from ..evaluation.segmenter import CLASSES
from .nnunet_process import DATASET, EPOCH
from .work import Image, Label, Predict, Work

SHOWN = 20  # last lines of its log, where it fails
# nnU-Net keeps more than tensors in its checkpoints, and its process reads none but those that it wrote
OWN_CHECKPOINTS = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
CHANNELS = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}


def require_nnunet(steps: int) -> None:
    """UsageError where nnU-Net is not installed, or does not train so many steps."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise UsageError("--trainer nnunet needs nnunetv2: pip install nnunetv2")
    if steps > EPOCH and steps % EPOCH:
        raise UsageError(
            f"--steps {steps}: nnU-Net trains epochs of {EPOCH} steps; give a multiple, or at most {EPOCH}"
        )


def train_nnunet(work: Work) -> Predict:
    """nnU-Net's 3d_fullres of its own plan, on all cases of `work`.

    A case whose chance is n times the smallest is in the data set n times (rounded).

    Raises:
        IncompleteRunError: nnU-Net's process failed; the end of its log.
    """
    require_nnunet(work.steps)
    raw = work.folder / "raw" / DATASET
    done = raw / "dataset.json"
    if not done.is_file():
        count = _write_cases(work, raw)
        numbers = {name: number for number, name in enumerate(("background", "ncr", "ed", "et")[:CLASSES])}
        channels = {str(k): CHANNELS.get(name, name) for k, name in enumerate(work.modalities)}
        about = {"channel_names": channels, "labels": numbers, "numTraining": count, "file_ending": ".nii.gz"}
        done.write_text(json.dumps(about), encoding="utf-8")
    settings = {"steps": work.steps, "seed": work.seed, "device": work.device}
    (work.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    _run("train", work.folder)
    return partial(_predict, work.folder, work.grid)


def _predict(folder: Path, grid: Grid, images: Iterable[Image]) -> Iterator[Label]:
    tests = folder / "tests"
    tests.mkdir(exist_ok=True)
    brains = []
    for number, image in enumerate(images):
        _write_image(tests, f"case{number:05d}", image, grid)
        brains.append(np.packbits(image.any(axis=0)))
    _run("predict", folder)
    for number, brain in enumerate(brains):
        label = np.load(tests / f"case{number:05d}.npy")
        inside = np.unpackbits(brain, count=label.size).reshape(label.shape).astype(bool)
        yield np.where(inside, label, np.uint8(0)).astype(np.uint8)


def _write_cases(work: Work, raw: Path) -> int:
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    least, count = min(work.chances), 0
    for (image, label), chance in zip(work.volumes, work.chances, strict=True):
        for _ in range(round(chance / least)):
            name = f"case{count:05d}"
            _write_image(raw / "imagesTr", name, image, work.grid)
            _save(raw / "labelsTr" / f"{name}.nii.gz", label, work.grid)
            count += 1
    return count


def _write_image(folder: Path, name: str, image: Image, grid: Grid) -> None:
    for channel, values in enumerate(image):
        _save(folder / f"{name}_{channel:04d}.nii.gz", values, grid)


def _save(path: Path, values: NDArray[np.uint8], grid: Grid) -> None:
    nib.save(nib.Nifti1Image(np.ascontiguousarray(values), grid.affine), path)  # pyright: ignore[reportPrivateImportUsage]


def _run(what: str, folder: Path) -> None:
    folders = {f"nnUNet_{name}": folder / name for name in ("raw", "preprocessed", "results")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"{__package__}.nnunet_process", what, str(folder)]
    log = folder / "nnunet.log"
    with log.open("ab") as output:
        ended = subprocess.run(
            command, env={**os.environ, **OWN_CHECKPOINTS, **{name: str(path) for name, path in folders.items()}},
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if ended.returncode:
        with log.open(encoding="utf-8", errors="replace") as lines:
            end = "".join(deque(lines, SHOWN))
        raise IncompleteRunError(
            f"{log}: nnU-Net ended with code {ended.returncode}; the same command goes on from its last checkpoint\n"
            f"{end}"
        )

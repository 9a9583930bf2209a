"""The nnU-Net data set that gets synthetic cases: whether they fit, found out before the first one is made."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from ..bundle.manifest import Grid
from ..errors import InvalidInputError, UsageError
from ..files import read_bounded
from ..output.layouts import PREFIX, SEGMENTATION, Layout
from ..output.regrid import FileGrid
from ..scans.names import CHANNEL_NAMES, modality_of
from ..scans.target_labels import renumbering
from .nnunet_journal import DATASET_NAME, MAX_JSON_BYTES, SPLITS_NAME

_CHANNEL = re.compile(r"[0-9]{1,4}")
MAX_HEADERS = 200  # of real cases, that are looked at for the data set's voxels


@dataclass(frozen=True)
class Target:
    """A data set that our cases fit."""

    dataset: Path
    splits: Path
    described: dict[str, Any]  # content of dataset.json
    numbers: dict[int, int]  # our label -> the data set's
    channels: dict[str, int]  # modality -> the data set's channel; what it does not have is left out

    @property
    def listed(self) -> dict[str, Any] | None:
        """Cases by name, where dataset.json lists them."""
        return self.described.get("dataset")

    def real_cases(self) -> list[str]:
        """Names of the cases that are not ours."""
        cases = cases_of(self.dataset) if self.listed is None else self.listed
        return [case for case in cases if not case.startswith(PREFIX)]

    def names(self, layout: Layout, sample: int) -> dict[str, str]:
        """The data set's name of each file of a sample, by modality and "seg"."""
        case = layout.case(sample)
        images = {modality: f"imagesTr/{case}_{number:04d}.nii.gz" for modality, number in self.channels.items()}
        return {**images, SEGMENTATION: f"labelsTr/{case}.nii.gz"}


def read_target(dataset: Path, splits: Path | None, layout: Layout) -> Target:
    """The data set at `dataset`, checked against the masks and modalities of a run's nnU-Net layout.

    `splits` is its `splits_final.json`, by default that in $nnUNet_preprocessed, else one in `dataset`.

    Raises:
        UsageError: channels, labels or the file ending do not fit.
        InvalidInputError: dataset.json cannot be read.
    """
    where = dataset / DATASET_NAME
    described = read_json(where)
    if not isinstance(described, dict):
        raise InvalidInputError(f"{where}: must be a JSON object, as nnU-Net has it")
    if not isinstance(described.get("dataset"), dict | None):
        raise InvalidInputError(f"{where}: dataset: must be an object of cases, as nnU-Net has it")
    if described.get("file_ending") != ".nii.gz":
        ending = described.get("file_ending")
        raise UsageError(f"{where}: file_ending is {ending!r}, synthetic cases are .nii.gz; convert the data set")
    ours = {("background" if value == 0 else name): value for value, name in enumerate(layout.labels)}
    channels = _channels(described.get("channel_names"), layout.modalities, where)
    place = (splits or _default_splits(dataset)).absolute()
    return Target(dataset, place, described, renumbering(described, ours, where), channels)


def _channels(names: Any, modalities: Sequence[str], where: Path) -> dict[str, int]:
    """Modality -> number, from `channel_names`; UsageError where one is none that we have."""
    if not isinstance(names, dict) or not names:
        raise UsageError(
            f'{where}: channel_names: must be an object such as {{"0": "T1", "1": "T1ce"}}, as nnU-Net has it'
        )
    found: dict[str, int] = {}
    for key, name in names.items():
        modality = modality_of(str(name))
        known = modality in modalities and modality not in found
        if modality is None or not known or not _CHANNEL.fullmatch(key):
            spelled = "; ".join(f"{m}: {', '.join(CHANNEL_NAMES[m])}" for m in modalities if m in CHANNEL_NAMES)
            raise UsageError(
                f"{where}: channel_names: {key} is {name!r}; synthetic cases have {', '.join(modalities)}, each once "
                f"(spellings: {spelled})"
            )
        found[modality] = int(key)
    return found


def check_free(target: Target, layout: Layout, count: int) -> None:
    """UsageError where the data set cannot be written, or has cases that a new run of `count` samples would make."""
    for folder in (target.dataset, target.dataset / "imagesTr", target.dataset / "labelsTr"):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{folder}: cannot be written; --add-to puts cases there")
    for case in cases_of(target.dataset):
        sample = layout.sample_of(f"labelsTr/{case}.nii.gz")
        if sample is not None and sample < count:
            raise UsageError(
                f"{target.dataset / 'labelsTr' / case}.nii.gz: is a case of another run; --name-by id gives names of "
                "your own, or add each run to a data set of its own"
            )


def voxels_of(target: Target, model: Grid) -> FileGrid:
    """The voxels that most real cases have, and as many more as the model's field of view needs.

    Raises:
        InvalidInputError: a mask is no readable NIfTI file of three dimensions, or there is none.
    """
    paths = [target.dataset / path for path in _masks(target)]
    if not paths:
        raise InvalidInputError(f"{target.dataset}: holds no case; --grid says which voxels the synthetic ones get")
    seen = Counter[tuple[Any, ...]]()
    first: dict[tuple[Any, ...], FileGrid] = {}
    for path in paths[:: max(1, len(paths) // MAX_HEADERS)]:
        try:
            image: Any = nib.load(path)
            shape, affine = image.shape, image.affine
        except (OSError, EOFError, ValueError, ImageFileError) as error:
            raise InvalidInputError(f"{path}: not a readable NIfTI file ({error})") from error
        if len(shape) != 3 or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InvalidInputError(f"{path}: {len(shape)} dimensions, or no voxels in space; a mask has three")
        kind = (shape, tuple(np.linalg.norm(affine[:3, :3], axis=0).round(3)), nib.aff2axcodes(affine))
        seen[kind] += 1
        first.setdefault(kind, FileGrid.of(shape, affine))
    return first[seen.most_common(1)[0][0]].covering(model.fov_mm)


def _masks(target: Target) -> list[str]:
    """The masks of real cases, relative to the data set."""
    if target.listed is None:
        return [f"labelsTr/{case}.nii.gz" for case in target.real_cases()]
    labels = [
        case.get("label")
        for name, case in target.listed.items()
        if isinstance(case, Mapping) and not name.startswith(PREFIX)
    ]
    return [label for label in labels if isinstance(label, str)]


def cases_of(dataset: Path) -> list[str]:
    """Names of the cases in labelsTr, sorted; InvalidInputError where there is no such folder."""
    folder = dataset / "labelsTr"
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder; give the raw data set of nnU-Net")
    return sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir() if path.name.endswith(".nii.gz"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; InvalidInputError names it."""
    try:
        return json.loads(read_bounded(path, MAX_JSON_BYTES))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not valid JSON ({error})") from error


def _default_splits(dataset: Path) -> Path:
    root = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112 - the name is nnU-Net's
    return (Path(root) / dataset.resolve().name if root else dataset) / SPLITS_NAME

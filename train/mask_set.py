"""Distance maps of a cohort's masks on disk, and the varied batches that the mask denoiser sees of them."""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from ..engine.conditions.columns import COLUMNS, ConditionColumn, normalise
from ..engine.decode import decode
from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from ..engine.output.measure import measure_tumour
from ..engine.scans.bounded import UnusableFileError, read_regular
from .checkpoint import read_json, write_json
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.draws import ORIGINAL_WEIGHT, case_weight
from .data.mask_maps import MapVariation, distance_maps, varied_maps
from .prefetch import DrawnAhead

FOLDER = "masks"
LEAST_DEVIATION_MM = 0.001  # where no mask has a tissue
MOST_MASKS = 8192  # of a file
_UNREADABLE = (
    UnusableFileError, OSError, ValueError, KeyError, EOFError,
    RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,  # RuntimeError: encrypted, an unknown compression
    SyntaxError, TokenError,  # NumPy reads headers as Python's literals
)  # fmt: skip
LEAST_ML = 0.3  # smaller tumours have no meaningful shape on the grid


@dataclass(frozen=True)
class MapScale:
    """Normalisation of the maps: (mm - mean) / std, one number a map."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class MaskSet:
    """Maps (masks, 3, z, x, y) float16 in mm, conditions (masks, 12) in their units, and how often each is drawn."""

    maps: NDArray[np.float16]
    conditions: NDArray[np.float64]
    weights: NDArray[np.float64]  # (masks,)
    scale: MapScale


def read_extra_masks(path: Path, config: MaskFirstConfig) -> NDArray[np.uint8]:
    """Masks beside the cohort's from an .npz file with `label` (masks, x, y, z): 0, 1 NCR, 2 ED, 3 or 4 ET.

    Raises:
        InvalidInputError: unreadable, without `label`, or not on the grid.
    """
    allowed = f"uint8 (masks, {', '.join(map(str, config.grid.shape))}) with values 0 to 4, at most {MOST_MASKS} masks"
    try:
        content = io.BytesIO(read_regular(path))
        with zipfile.ZipFile(content) as archive, archive.open("label.npy") as member:
            shape, dtype = _array_header(member)
        if len(shape) != 4 or shape[1:] != config.grid.shape or shape[0] > MOST_MASKS or dtype != np.uint8:
            raise InvalidInputError(f"{path}: label is {dtype} {shape}, must be {allowed}")
        content.seek(0)
        label: NDArray[np.uint8] = np.load(content)["label"]
    except _UNREADABLE as error:
        raise InvalidInputError(f"{path}: must be an .npz file with an array 'label' ({error})") from error
    if label.max(initial=0) > 4:
        raise InvalidInputError(f"{path}: label holds {label.max()}, must be {allowed}")
    return np.where(label == 4, np.uint8(3), label)


def _array_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an .npy file claims, before room is made for it."""
    read = npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def make_mask_set(
    cohort: Cohort,
    extra: Path | None,
    config: MaskFirstConfig,
    directory: Path,
    progress: Callable[[int, int], None],
) -> MaskSet:
    """The masks of the cohort and of `extra` as maps, or what was made of the same ones before.

    Raises:
        InvalidInputError: `extra` is wrong, or no mask holds a tumour of `LEAST_ML`.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    key = {
        "cases": [[entry.path.name, case_weight(entry)] for entry in cohort.entries],
        "extra": sha256_file(extra) if extra is not None else None,
    }
    stamp = folder / "key.json"
    if not (stamp.is_file() and json.loads(stamp.read_text()) == key):
        stamp.unlink(missing_ok=True)
        maps, conditions, weights = measured_masks(cohort, extra, config, progress)
        np.save(folder / "maps.npy", maps)
        np.save(folder / "conditions.npy", conditions)
        np.save(folder / "weights.npy", weights)
        values = maps.astype(np.float64).transpose(1, 0, 2, 3, 4).reshape(3, -1)
        deviation = np.maximum(values.std(axis=1), LEAST_DEVIATION_MM)
        save_map_scale(directory, MapScale(tuple(values.mean(axis=1).tolist()), tuple(deviation.tolist())))
        write_json(stamp, key)
    maps, scale = np.load(folder / "maps.npy", mmap_mode="r"), load_map_scale(directory)
    return MaskSet(maps, np.load(folder / "conditions.npy"), np.load(folder / "weights.npy"), scale)


def save_map_scale(directory: Path, scale: MapScale) -> None:
    """Store the maps' normalisation."""
    (directory / FOLDER).mkdir(exist_ok=True)
    write_json(directory / FOLDER / "maps.json", asdict(scale))


def load_map_scale(directory: Path) -> MapScale:
    """The maps' normalisation in a training directory.

    Raises:
        InvalidInputError: the masks were not made yet.
    """
    path = directory / FOLDER / "maps.json"
    return decode(MapScale, read_json(path), str(path))


def measured_masks(
    cohort: Cohort, extra: Path | None, config: MaskFirstConfig, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float16], NDArray[np.float64], NDArray[np.float64]]:
    """Maps, conditions and weights of all masks with a tumour.

    Raises:
        InvalidInputError: `extra` is wrong, or no mask holds a tumour of `LEAST_ML`.
    """
    spacing = config.grid.spacing_mm
    more = [] if extra is None else list(read_extra_masks(extra, config))
    maps, conditions, weights = [], [], []
    for number in range(len(cohort) + len(more)):
        own = number < len(cohort)
        label = np.ascontiguousarray(cohort.label(number).transpose(1, 2, 0)) if own else more[number - len(cohort)]
        measured = measure_tumour(label, spacing)
        if measured.volume_ml >= LEAST_ML:
            maps.append(distance_maps(label, spacing, config.mask_grid).astype(np.float16))
            conditions.append(measured.vector(COLUMNS))
            weights.append(case_weight(cohort.entries[number]) if own else ORIGINAL_WEIGHT)
        progress(number + 1, len(cohort) + len(more))
    if not maps:
        raise InvalidInputError(f"no mask holds a tumour of {LEAST_ML} ml; the mask stage needs tumours to learn from")
    return np.stack(maps), np.stack(conditions), np.array(weights)


class MaskVolumes:
    """Normalised maps of random masks, varied, with their normalised conditions."""

    def __init__(
        self, masks: MaskSet, columns: tuple[ConditionColumn, ...], fov_mm: tuple[float, float, float]
    ) -> None:
        self.masks, self.columns, self.fov_mm = masks, columns, fov_mm
        self.mean = np.array(masks.scale.mean, np.float32)[:, None, None, None]
        self.std = np.array(masks.scale.std, np.float32)[:, None, None, None]
        self.chances = masks.weights / masks.weights.sum()
        self._ahead = DrawnAhead(self._varied)

    def draw(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]:
        """(N, 3, z, x, y), then conditions (N, 12)."""
        return self._ahead(size, generator)

    def _varied(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]:
        maps, rows = [], []
        for picked in generator.choice(len(self.chances), size=size, p=self.chances):
            found = self.masks.maps[picked].astype(np.float32), self.masks.conditions[picked]
            varied, row = varied_maps(*found, self.fov_mm, generator, MapVariation())
            maps.append(varied)
            rows.append(row)
        condition = torch.from_numpy(normalise(np.stack(rows), self.columns).astype(np.float32))
        return (np.stack(maps) - self.mean) / self.std, (condition,)

"""Distance maps of a cohort's masks and of variants of them, on disk, as the mask denoiser trains on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.conditions.columns import COLUMNS, ConditionColumn, normalise
from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from ..engine.output.measure import measure_tumour
from .checkpoint import read_json, write_json
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.mask_maps import MaskVariation, distance_maps, varied_mask

FOLDER = "masks"
VARIANTS = 4  # of every mask, itself among them
LEAST_ML = 0.3  # smaller tumours have no meaningful shape on the grid
EXTRA_KEYS = ("label",)


@dataclass(frozen=True)
class MapScale:
    """Normalisation of the maps: (mm - mean) / std, one number a map."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class MaskSet:
    """Maps (masks, 3, z, x, y) float16 in mm, and the conditions (masks, 12) of the masks in their units."""

    maps: NDArray[np.float16]
    conditions: NDArray[np.float64]
    scale: MapScale


def read_extra_masks(path: Path, config: MaskFirstConfig) -> NDArray[np.uint8]:
    """Masks beside the cohort's from an .npz file with `label` (masks, x, y, z): 0, 1 NCR, 2 ED, 3 or 4 ET.

    Raises:
        InvalidInputError: unreadable, without `label`, or not on the grid.
    """
    try:
        with np.load(path) as archive:
            label = archive["label"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(f"{path}: must be an .npz file with an array 'label' ({error})") from error
    if label.shape[1:] != config.grid.shape or label.dtype != np.uint8 or label.max(initial=0) > 4:
        allowed = f"uint8 (masks, {', '.join(map(str, config.grid.shape))}) with values 0 to 4"
        raise InvalidInputError(f"{path}: label is {label.dtype} {label.shape}, must be {allowed}")
    return np.where(label == 4, np.uint8(3), label)


def make_mask_set(
    cohort: Cohort,
    extra: Path | None,
    config: MaskFirstConfig,
    directory: Path,
    seed: int,
    progress: Callable[[int, int], None],
) -> MaskSet:
    """The masks of the cohort and of `extra` with `VARIANTS` of each, or what was made of the same ones before.

    Raises:
        InvalidInputError: `extra` is wrong, or no mask holds a tumour of `LEAST_ML`.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    key = {
        "cases": [e.path.name for e in cohort.entries],
        "extra": sha256_file(extra) if extra is not None else None,
        "seed": seed,
    }
    stamp = folder / "key.json"
    if not (stamp.is_file() and json.loads(stamp.read_text()) == key):
        stamp.unlink(missing_ok=True)
        maps, conditions = _vary(cohort, extra, config, seed, progress)
        np.save(folder / "maps.npy", maps)
        np.save(folder / "conditions.npy", conditions)
        values = maps.astype(np.float64).transpose(1, 0, 2, 3, 4).reshape(3, -1)
        scale = {"mean": values.mean(axis=1).tolist(), "std": np.maximum(values.std(axis=1), 1e-3).tolist()}
        write_json(folder / "maps.json", scale)
        write_json(stamp, key)
    maps = np.load(folder / "maps.npy", mmap_mode="r")
    return MaskSet(maps, np.load(folder / "conditions.npy"), load_map_scale(directory))


def load_map_scale(directory: Path) -> MapScale:
    """The maps' normalisation in a training directory.

    Raises:
        InvalidInputError: the masks were not made yet.
    """
    data = read_json(directory / FOLDER / "maps.json")
    return MapScale(tuple(data["mean"]), tuple(data["std"]))


def _vary(
    cohort: Cohort, extra: Path | None, config: MaskFirstConfig, seed: int, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    spacing = config.grid.spacing_mm
    cases = [(np.ascontiguousarray(cohort.label(i).transpose(1, 2, 0)), _brain(cohort, i)) for i in range(len(cohort))]
    if extra is not None:
        common = np.mean([brain for _, brain in cases], axis=0) >= 0.5
        cases += [(label, common) for label in read_extra_masks(extra, config)]
    maps, conditions = [], []
    for number, (label, brain) in enumerate(cases):
        for variant in range(VARIANTS):
            generator = np.random.default_rng([seed, number, variant])
            found = varied_mask(label, spacing, brain, generator, MaskVariation()) if variant else label
            measured = measure_tumour(found, spacing)
            if measured.volume_ml >= LEAST_ML:
                maps.append(distance_maps(found, spacing, config.mask_grid).astype(np.float16))
                conditions.append(measured.vector(COLUMNS))
        progress(number + 1, len(cases))
    if not maps:
        raise InvalidInputError(f"no mask holds a tumour of {LEAST_ML} ml; the mask stage needs tumours to learn from")
    return np.stack(maps), np.stack(conditions)


def _brain(cohort: Cohort, case: int) -> NDArray[np.bool_]:
    return np.asarray(np.any(cohort.slices(case), axis=1)).transpose(1, 2, 0)


class MaskVolumes:
    """Normalised maps of random masks with their normalised conditions, half of them mirrored left-right."""

    def __init__(self, masks: MaskSet, columns: tuple[ConditionColumn, ...]) -> None:
        self.masks = masks
        self.mean, self.std = (
            np.array(v, np.float32)[:, None, None, None] for v in (masks.scale.mean, masks.scale.std)
        )
        mirrored = masks.conditions.copy()
        mirrored[:, COLUMNS.index("x")] = 1.0 - mirrored[:, COLUMNS.index("x")]
        self.conditions = normalise(masks.conditions, columns), normalise(mirrored, columns)

    def draw(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]:
        """(N, 3, z, x, y), then conditions (N, 12)."""
        picked, mirrors = generator.integers(len(self.masks.maps), size=size), generator.integers(2, size=size)
        pairs = list(zip(picked.tolist(), mirrors.tolist(), strict=True))
        clean = np.stack([self.masks.maps[i][:, :, ::-1] if m else self.masks.maps[i] for i, m in pairs])
        condition = np.stack([self.conditions[m][i] for i, m in pairs]).astype(np.float32)
        return (clean.astype(np.float32) - self.mean) / self.std, (torch.from_numpy(condition),)

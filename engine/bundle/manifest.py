"""The bundle: one directory that holds a model ready to run, and the vocabulary that every floor shares.

`bundle.json` names every file with its sha256; a file that is missing, changed or not listed is refused
before any model is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...kernels.assemble import INT16_SCALE as INT16_SCALE
from ..conditions.columns import ConditionColumn
from ..conditions.distribution import CohortDistribution
from ..decode import decode
from ..errors import InvalidInputError

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
MAX_VOXELS = 512**3
SPACING_MM = (0.1, 20.0)  # of a voxel, smallest and largest
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")  # of modalities, labels and components: they become parts of file names
MAX_NAMES, MAX_FILE_NAME = 64, 200
SEGMENTATION = "seg"  # role of the mask beside the modalities
FILE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

MODALITIES = ("t1", "t1ce", "t2", "flair")
TISSUES = ("ncr", "ed", "et")  # labels 1, 2, 3 inside arrays
BRATS_LABELS = (0, 1, 2, 4)  # what files in BraTS layout call them
COMPONENT_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("latent",),
    "aggregator_encode": ("latent",),
    "denoiser": ("prediction",),
    "aggregator": ("slices",),
    "decoder": ("image", "label_logits"),
    "refiner": ("refined",),
}
"""Component -> names of its outputs, in their order."""

COMPONENTS = tuple(COMPONENT_OUTPUTS)
REQUIRED_COMPONENTS = frozenset({"encoder", "aggregator_encode", "denoiser", "aggregator", "decoder"})

SamplerName = Literal["ddim", "dpmpp-2m"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class Grid:
    """The voxel grid of a model: axes (x, y, z) in RAS+, slices along z."""

    shape: tuple[int, int, int]  # voxels
    spacing_mm: tuple[float, float, float]

    @property
    def fov_mm(self) -> tuple[float, float, float]:
        """Field of view along x, y, z in millimetres."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def affine(self) -> NDArray[np.float64]:
        """RAS+ affine (4, 4) in millimetres with the origin at the centre of the field of view."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        return affine

    def problems(self) -> list[str]:
        """What keeps this from being a grid, one line each."""
        found: list[str] = []
        if min(self.shape) < 1 or prod(self.shape) > MAX_VOXELS:
            found.append(
                f"grid.shape {self.shape}: each axis must be at least 1 and the whole at most {MAX_VOXELS} voxels"
            )
        low, high = SPACING_MM
        if not all(low <= s <= high for s in self.spacing_mm):
            found.append(f"grid.spacing_mm {self.spacing_mm}: must be from {low:g} to {high:g} millimetres")
        return found


DEFAULT_GRID = Grid((128, 128, 64), (1.5, 1.5, 2.4))


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a component; the batch axis is called `batch`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class ComponentSpec:
    """An ONNX graph of the bundle."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle as it must be found."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class NoiseSchedule:
    """The diffusion process that the denoiser was trained on."""

    name: str  # how the table was made, for the reader
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing
    alphas_cumprod: tuple[float, ...]  # one value a training step, falling


@dataclass(frozen=True)
class LatentSpec:
    """The volume latent Z that the denoiser works on; normalisation lives inside the aggregator graphs."""

    shape: tuple[int, ...]  # (channel, depth, height, width) or (channel, height, width)
    scale: tuple[float, ...]  # deviation a slice-latent channel that normalisation divides by
    shift: str  # what normalisation subtracts, in words


@dataclass(frozen=True)
class SamplingDefaults:
    """What `generate` uses when it is not told otherwise."""

    sampler: SamplerName
    steps: int
    eta: float
    guidance: float


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from."""

    data: str
    training: str
    code_version: str
    date: str
    licence: str


@dataclass(frozen=True)
class BundleManifest:
    """The content of `bundle.json`."""

    schema_version: int
    id: str
    preset: str
    grid: Grid
    modalities: tuple[str, ...]
    labels: tuple[str, ...]  # class names; index 0 is background
    background_threshold: float  # an unlabelled voxel below this in every modality (0..1) is background
    latent: LatentSpec
    schedule: NoiseSchedule
    defaults: SamplingDefaults
    condition_columns: tuple[ConditionColumn, ...]
    cohort: CohortDistribution
    components: dict[str, ComponentSpec]
    files: dict[str, FileRecord]
    opset: int
    precision: str
    provenance: Provenance
    intended_use: str


def parse_manifest(raw: bytes, where: str) -> BundleManifest:
    """Decode and check the bytes of a `bundle.json`; `where` names it in messages.

    Raises:
        InvalidInputError: not JSON, another schema version, or values that contradict each other.
    """
    try:
        data = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not valid JSON ({error})") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{where}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}; export the bundle again"
        )
    manifest = decode(BundleManifest, data, where)
    for problem in _contradictions(manifest):
        raise InvalidInputError(f"{where}: {problem}")
    return manifest


def manifest_bytes(manifest: BundleManifest) -> bytes:
    """The bytes of `bundle.json`, stable for equal manifests."""
    return (json.dumps(asdict(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _contradictions(m: BundleManifest) -> list[str]:
    problems = _name_problems(m) + m.grid.problems()
    size = 1
    for n in m.latent.shape:
        size *= n
    if len(m.latent.shape) not in (3, 4) or min(m.latent.shape) < 1 or size > MAX_VOXELS:
        problems.append(f"latent.shape {m.latent.shape}: 3 or 4 positive axes, at most {MAX_VOXELS} elements")
    table = np.asarray(m.schedule.alphas_cumprod)
    if table.size == 0 or not np.all((table >= 0) & (table <= 1)) or np.any(np.diff(table) > 0):
        problems.append("schedule.alphas_cumprod: must be a falling table of values from 0 to 1")
    if m.defaults.steps < 1 or m.defaults.steps > max(table.size, 1):
        problems.append(f"defaults.steps {m.defaults.steps}: allowed 1..{table.size}")
    missing = REQUIRED_COMPONENTS - m.components.keys()
    unknown = m.components.keys() - set(COMPONENTS)
    if missing or unknown:
        problems.append(f"components: missing {sorted(missing)}, unknown {sorted(unknown)}")
    problems += m.cohort.problems()
    if tuple(column.name for column in m.condition_columns) != m.cohort.columns:
        problems.append(f"condition_columns: must be the cohort's columns {', '.join(m.cohort.columns)}")
    problems += [
        f"components.{n}: file {c.file!r} is not in files" for n, c in m.components.items() if c.file not in m.files
    ]
    return problems


def _name_problems(m: BundleManifest) -> list[str]:
    problems: list[str] = []
    for kind, names in (("modalities", m.modalities), ("labels", m.labels), ("components", tuple(m.components))):
        problems += [f"{kind}: name {name!r} must match {NAME.pattern}" for name in names if not NAME.fullmatch(name)]
        if len(set(names)) != len(names) or len(names) > MAX_NAMES:
            problems.append(f"{kind}: must be at most {MAX_NAMES} different names")
    if SEGMENTATION in m.modalities:
        problems.append(f"modalities: {SEGMENTATION!r} is the name of the mask")
    problems += [
        f"files: name {name!r} must be parts of letters, digits, '.', '_' and '-' joined by '/'"
        for name in m.files
        if len(name) > MAX_FILE_NAME or not all(FILE_PART.fullmatch(part) for part in name.split("/"))
    ]
    problems += [f"files: {name!r} has {r.bytes} bytes" for name, r in m.files.items() if r.bytes < 0]
    return problems


def manifest_summary(manifest: BundleManifest) -> Mapping[str, Any]:
    """The manifest as plain data without its long tables, for people and `--json`."""
    data = asdict(manifest)
    data["schedule"]["alphas_cumprod"] = f"{len(manifest.schedule.alphas_cumprod)} values"
    return data

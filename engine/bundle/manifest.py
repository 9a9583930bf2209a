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
from .store import MANIFEST_NAME as MANIFEST_NAME

SCHEMA_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)  # 1 knew the form of slices alone, 2 no fitted steps
SIGNATURE_NAME = "model.sig"  # covers the manifest too, which therefore cannot list it
MAX_VOXELS = 512**3
SPACING_MM = (0.1, 20.0)  # of a voxel, smallest and largest
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")  # of modalities, labels and components: they become parts of file names
MAX_NAMES, MAX_FILE_NAME = 64, 200
SEGMENTATION = "seg"  # role of the mask beside the modalities
FILE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

MODALITIES = ("t1", "t1ce", "t2", "flair")
TISSUES = ("ncr", "ed", "et")  # labels 1, 2, 3 inside arrays
BRATS_LABELS = (0, 1, 2, 4)  # what files in BraTS layout call them

Form = Literal["slices", "mask-first"]
"""What a model makes: image and mask of one latent, or the mask first and then an image on it."""

COMPONENT_OUTPUTS: Mapping[Form, Mapping[str, tuple[str, ...]]] = {
    "slices": {
        "encoder": ("latent",),
        "aggregator_encode": ("latent",),
        "denoiser": ("prediction",),
        "aggregator": ("slices",),
        "decoder": ("image", "label_logits"),
        "refiner": ("refined",),
    },
    "mask-first": {
        "encoder": ("features",),
        "aggregator_encode": ("latent",),
        "mask_denoiser": ("prediction",),
        "denoiser": ("prediction",),
        "aggregator": ("features",),
        "decoder": ("image", "brain"),
        "refiner": ("refined",),
    },
}
"""Form -> component -> names of its outputs, in their order."""

COMPONENTS = ("encoder", "aggregator_encode", "mask_denoiser", "denoiser", "aggregator", "decoder", "refiner")
OPTIONAL_COMPONENTS = frozenset({"refiner"})

SamplerName = Literal["ddim", "dpmpp-2m", "fitted"]
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
class FittedSteps:
    """Few steps that end where many would: what the sampler `fitted` does, see `export.fitted_steps`.

    The state after call k is from_sample x + from_x0 x0 + from_previous_x0 (x0 of the call before).
    """

    timesteps: tuple[int, ...]  # of the calls, falling
    rows: tuple[tuple[float, float, float], ...]  # from_sample, from_x0, from_previous_x0, a row a call


@dataclass(frozen=True)
class NoiseSchedule:
    """The diffusion process that the denoiser was trained on."""

    name: str  # how the table was made, for the reader
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing
    alphas_cumprod: tuple[float, ...]  # one value a training step, falling
    fitted: tuple[FittedSteps, ...] = ()  # of the denoiser, one for each number of steps


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
class MaskMaps:
    """The distance maps that the mask denoiser works on, in the order whole tumour, core, necrosis."""

    shape: tuple[int, int, int, int]  # (map, z, x, y)
    mean: tuple[float, ...]  # mm, a number a map; a normalised map is (mm - mean) / std
    std: tuple[float, ...]


@dataclass(frozen=True)
class MaskFirst:
    """What a bundle of the mask-first form says beside what all bundles say."""

    slab_slices: int  # neighbouring slices that the encoder and the decoder take as one slab
    mask_maps: MaskMaps
    mask_sampling: SamplingDefaults  # of the mask denoiser; the schedule is the bundle's
    source: float  # what samples are drawn as: 1 real scans, 0 phantoms
    draft_levels: tuple[tuple[float, ...], ...]  # (tissue, modality) 0..1: white, grey, fluid, then the tumour's
    anatomies: str  # SHA-256 of the brains that drafts are made on
    grain: tuple[tuple[float, float], ...]  # (modality, 2): deviation of the fine noise at signal 0 and 1, 0..1
    fitted: tuple[FittedSteps, ...] = ()  # of the mask denoiser, one for each number of steps


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
    form: Form
    id: str
    preset: str
    grid: Grid
    modalities: tuple[str, ...]
    labels: tuple[str, ...]  # class names; index 0 is background
    background_threshold: float  # an unlabelled voxel below this in every modality (0..1) is background
    latent: LatentSpec
    schedule: NoiseSchedule
    defaults: SamplingDefaults
    mask_first: MaskFirst | None  # None in the form of slices
    condition_columns: tuple[ConditionColumn, ...]
    cohort: CohortDistribution
    components: dict[str, ComponentSpec]
    files: dict[str, FileRecord]
    opset: int
    precision: str
    provenance: Provenance
    intended_use: str


def manifest_bytes(manifest: BundleManifest) -> bytes:
    """The bytes of `bundle.json`, stable for equal manifests."""
    return (json.dumps(asdict(manifest), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def manifest_summary(manifest: BundleManifest) -> Mapping[str, Any]:
    """The manifest as plain data without its long tables, for people and `--json`."""
    data = asdict(manifest)
    data["schedule"]["alphas_cumprod"] = f"{len(manifest.schedule.alphas_cumprod)} values"
    return data

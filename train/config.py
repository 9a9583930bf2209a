"""Configuration of a system: frozen dataclasses, read from the presets' YAML."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from ..engine.bundle.manifest import Grid, PredictionType, SamplingDefaults, TimestepSpacing
from ..engine.decode import decode
from ..engine.errors import InvalidInputError
from .config_rules import config_faults, mask_first_faults

PRESETS = Path(__file__).parent / "presets"
Form = Literal["light", "published"]  # of a network: ours, or the authors' (docs/training.md tells them apart)


@dataclass(frozen=True)
class SliceVaeConfig:
    """2D autoencoder of one slice; the factor in plane is `unshuffle` times the product of `strides`."""

    form: Form
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    unshuffle: int  # space-to-depth factor before the first convolution; 1 for none
    encoder_blocks: int  # residual blocks a level
    decoder_blocks: int
    latent_channels: int
    groups: int  # of GroupNorm
    attention: bool  # at the deepest level
    position_width: int
    fine_width: int  # channels at full resolution, used with unshuffle > 1

    @property
    def factor(self) -> int:
        """How many pixels a latent element spans along one axis."""
        factor = self.unshuffle
        for stride in self.strides:
            factor *= stride
        return factor


@dataclass(frozen=True)
class SlabAutoencoderConfig:
    """Depth-compressing autoencoder of slabs, factor 8 in plane and `slices` along z; levels at 1/2, 1/4 and 1/8."""

    slices: int  # neighbouring slices that make one slab
    latent_channels: int
    widths: tuple[int, int, int]  # of the levels, finest first
    encoder_blocks: tuple[int, int, int]  # residual blocks a level
    decoder_blocks: tuple[int, int, int]
    fine_width: int  # channels of the last residual at full resolution


@dataclass(frozen=True)
class PlanarConfig:
    """UNet of 2D convolutions with mixing along depth; each level halves all three axes."""

    widths: tuple[int, ...]
    blocks: int  # residual blocks a level and way
    embedding: int  # width of the embedding of timestep and condition
    heads: int  # of the attention at the lowest level


@dataclass(frozen=True)
class AggregatorConfig:
    """How the slice latents of a volume become Z."""

    kind: Literal["stack", "mosaic"]
    widths: tuple[int, int]  # of the mosaic's VAE
    kl_weight: float


@dataclass(frozen=True)
class DenoiserConfig:
    """UNet over Z; its dimensionality follows the aggregator."""

    form: Form
    widths: tuple[int, ...]
    blocks: int
    groups: int
    time_width: int
    condition_width: int  # hidden width of the condition MLP tau
    attention: bool  # in the middle block
    ellipsoid: bool  # draw the condition's centre and box as an input channel
    shells: tuple[tuple[str, ...], ...]  # shares that are drawn as smaller ellipsoids inside it, a channel each
    coordinates: bool  # constant channels with each position's coordinates


@dataclass(frozen=True)
class RefinerConfig:
    """2.5D residual network at half resolution in plane."""

    width: int
    blocks: int
    fine_width: int


@dataclass(frozen=True)
class DistillationConfig:
    """Stage `distill`: the denoiser learns to give in one call what classifier-free guidance gives in two."""

    guidance: float  # of the teacher


@dataclass(frozen=True)
class ScheduleConfig:
    """Forward process and what the denoiser predicts."""

    steps: int
    beta_start: float
    beta_end: float
    zero_terminal_snr: bool
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing


@dataclass(frozen=True)
class StageConfig:
    """Optimisation of one stage."""

    steps: int
    batch_size: int  # slices for the autoencoder, volumes for the others
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    ema_decay: float


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the autoencoder's loss terms."""

    l1: float
    ssim: float
    gradient: float
    cross_entropy: float
    dice: float
    kl: float
    tumour_share: float  # share of a batch drawn from slices that hold tumour
    empty_share: float  # share of the empty slices that is kept


@dataclass(frozen=True)
class SystemConfig:
    """Everything that decides a system: what the networks are and how they are trained."""

    preset: str
    grid: Grid
    modalities: tuple[str, ...]
    tissues: tuple[str, ...]  # label classes beside background
    vae: SliceVaeConfig
    aggregator: AggregatorConfig
    denoiser: DenoiserConfig
    refiner: RefinerConfig | None
    distillation: DistillationConfig | None
    schedule: ScheduleConfig
    sampling: SamplingDefaults
    autoencoder_loss: AutoencoderLoss
    condition_dropout: float  # chance that a training case is shown without its condition
    denoiser_loss: Literal["l1", "l2"]
    stages: dict[str, StageConfig]

    @property
    def classes(self) -> int:
        """Label classes, background included."""
        return 1 + len(self.tissues)

    @property
    def slice_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of a slice latent."""
        x, y, _ = self.grid.shape
        return self.vae.latent_channels, x // self.vae.factor, y // self.vae.factor


@dataclass(frozen=True)
class CropConfig:
    """How the autoencoder's training crops are drawn."""

    shape: tuple[int, int, int]  # x, y, z voxels; multiples of 8, 8 and the slab's slices
    tumour_share: float  # of the crops that lie about a tumour voxel
    contrast_share: float  # of the crops whose modalities get random contrast curves
    jitter: float  # largest deviation of the noise on the latents


@dataclass(frozen=True)
class AugmentationConfig:
    """Varied copies of the real scans, made when the cohort is prepared."""

    copies: int  # of each real scan; 0 for none
    carve: float  # chance that a copy has the lesion of another real scan
    rescan: float  # chance that a copy is scanned anew: contrast curve, blur along z, bias field, noise


@dataclass(frozen=True)
class MaskFirstConfig:
    """A system that makes the mask first, then the image, on latents of a depth-compressing autoencoder."""

    preset: str
    grid: Grid
    modalities: tuple[str, ...]
    tissues: tuple[str, ...]
    augmentation: AugmentationConfig
    autoencoder: SlabAutoencoderConfig
    crops: CropConfig
    mask_grid: tuple[int, int, int]  # x, y, z of the distance maps
    mask_denoiser: PlanarConfig
    denoiser: PlanarConfig
    refiner: RefinerConfig | None
    distillation: DistillationConfig | None
    schedule: ScheduleConfig
    sampling: SamplingDefaults
    mask_sampling: SamplingDefaults
    condition_dropout: float
    stages: dict[str, StageConfig]

    @property
    def classes(self) -> int:
        """Label classes, background included."""
        return 1 + len(self.tissues)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Shape (C, S, h, w) of Z."""
        x, y, z = self.grid.shape
        return self.autoencoder.latent_channels, z // self.autoencoder.slices, x // 8, y // 8

    @property
    def features_shape(self) -> tuple[int, int, int]:
        """Shape (F, X/4, Y/4) of what encoder, aggregator and decoder exchange of a slab."""
        x, y, _ = self.grid.shape
        return self.autoencoder.widths[1] + self.autoencoder.latent_channels // 4, x // 4, y // 4

    @property
    def maps_shape(self) -> tuple[int, int, int, int]:
        """Shape (map, z, x, y) of the distance maps."""
        x, y, z = self.mask_grid
        return 3, z, x, y


AnySystem = SystemConfig | MaskFirstConfig
Checked = TypeVar("Checked", SystemConfig, MaskFirstConfig)


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 as people write it: `1e-4` is a number too, as in YAML 1.2."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def parse_config(text: str, where: str) -> AnySystem:
    """A system from YAML text.

    Raises:
        InvalidInputError: not YAML, a key is missing, unknown or of the wrong type, or the grid does not divide.
    """
    try:
        data = yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{where}: not valid YAML ({error})") from error
    return _decoded(data, where)


def _decoded(data: object, where: str) -> AnySystem:
    """Data with a mask stage is a mask-first system."""
    if isinstance(data, dict) and "mask_denoiser" in data:
        return check_config(decode(MaskFirstConfig, data, where), where)
    return check_config(decode(SystemConfig, data, where), where)


def check_config(config: Checked, where: str) -> Checked:
    """The configuration itself when its numbers and parts fit together.

    Raises:
        InvalidInputError: naming all that does not, a line each.
    """
    found = mask_first_faults(config) if isinstance(config, MaskFirstConfig) else config_faults(config)
    if faults := list(found):
        raise InvalidInputError("\n".join(f"{where}: {fault}" for fault in faults))
    return config


def slice_form(config: AnySystem, where: str) -> SystemConfig:
    """The configuration itself when it is of the slice form.

    Raises:
        InvalidInputError: it makes the mask first.
    """
    if isinstance(config, MaskFirstConfig):
        raise InvalidInputError(f"{where}: preset {config.preset} makes the mask first; a preset of slices is needed")
    return config


def load_preset(name_or_path: str) -> AnySystem:
    """A shipped preset by name, or a YAML file by path.

    Raises:
        InvalidInputError: no such preset or file, or its content is wrong.
    """
    shipped = sorted(p.stem for p in PRESETS.glob("*.yaml"))
    path = PRESETS / f"{name_or_path}.yaml" if name_or_path in shipped else Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"preset {name_or_path}: cannot be read; shipped presets: {', '.join(shipped)}"
        ) from error
    return parse_config(text, str(path))


def config_to_json(config: AnySystem) -> dict[str, object]:
    """Plain data that `config_from_json` reads back."""
    return dataclasses.asdict(config)


def config_from_json(data: object, where: str) -> AnySystem:
    """A configuration as a checkpoint stores it; raises InvalidInputError like `parse_config`.

    Checkpoints from before networks had a form are of the light one; those from before shells, distillation or
    augmentation have none.
    """
    if isinstance(data, dict) and "mask_denoiser" in data:
        return _decoded({"augmentation": {"copies": 0, "carve": 0.0, "rescan": 0.0}, "refiner": None, **data}, where)
    if isinstance(data, dict):
        found: dict[str, Any] = data
        added: dict[str, dict[str, object]] = {"vae": {"form": "light"}, "denoiser": {"form": "light", "shells": []}}
        old = {k: {**new, **found[k]} for k, new in added.items() if isinstance(found.get(k), dict)}
        data = {"distillation": None, **found, **old}
    return _decoded(data, where)

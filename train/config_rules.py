"""What the numbers of a configuration may be: ranges, sizes that divide, names that the engine knows, parts that fit.

Everything is checked before data are read, so that nothing is found out after hours of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine.anatomy.shares import LEADING
from ..engine.bundle.manifest import MAX_VOXELS, MODALITIES, TISSUES

if TYPE_CHECKING:
    from .config import AnySystem, MaskFirstConfig, SystemConfig

WHOLE_TUMOUR = "wt"  # the one tissue of a system without parts of the tumour
REQUIRED_STAGES = ("autoencoder", "aggregator", "denoiser")
KNOWN_STAGES = (*REQUIRED_STAGES, "refiner", "distill")
MASK_FIRST_REQUIRED = ("autoencoder", "mask", "denoiser")
MASK_FIRST_KNOWN = (*MASK_FIRST_REQUIRED, "distill", "refiner")


@dataclass(frozen=True)
class Range:
    """The values that a key may have, ends included unless `above` or `below` are set."""

    low: float
    high: float = math.inf
    above: bool = False  # low itself is not allowed
    below: bool = False  # high itself is not allowed

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def __str__(self) -> str:
        if not self.above and not self.below and math.isfinite(self.high):
            return f"from {self.low:g} to {self.high:g}"
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


COUNT, SHARE, WEIGHT = Range(1), Range(0, 1), Range(0)
RATE = Range(0, 1, above=True)
GRID_SIDE, SPACING_MM = Range(1, 1024), Range(0.1, 20)
CHANNELS, BLOCKS = Range(1, 4096), Range(1, 64)
BETA = Range(0, 1, above=True, below=True)
DECAY = Range(0, 1, below=True)
GUIDANCE = Range(0, 100)


def config_faults(config: SystemConfig) -> Iterator[str]:
    """Everything that is wrong with a configuration, as `key: what it is, what it must be`."""
    yield from _range_faults(_ranged(config))
    yield from _vocabulary_faults(config)
    yield from _schedule_faults(config)
    wanted: dict[str, str] = dict.fromkeys(REQUIRED_STAGES, "")
    yield from _stage_faults(config, KNOWN_STAGES, wanted | _wanted_beside(config))
    yield from _fit_faults(config)


def mask_first_faults(config: MaskFirstConfig) -> Iterator[str]:
    """The same of a mask-first configuration."""
    yield from _range_faults(_mask_first_ranged(config))
    yield from _modality_faults(config)
    if config.tissues != TISSUES:
        yield f"tissues: are {_listed(config.tissues)}, must be {_listed(TISSUES)}: the maps are theirs"
    if missing := [name for name in LEADING if name not in config.modalities]:
        yield f"modalities: {_listed(missing)} missing: the tissues of a scan are told apart by {_listed(LEADING)}"
    yield from _schedule_faults(config)
    wanted: dict[str, str] = dict.fromkeys(MASK_FIRST_REQUIRED, "")
    yield from _stage_faults(config, MASK_FIRST_KNOWN, wanted | _wanted_beside(config))
    yield from _mask_first_fit_faults(config)


def _mask_first_ranged(config: MaskFirstConfig) -> Iterator[tuple[str, float, Range]]:
    autoencoder, crops = config.autoencoder, config.crops
    yield from _common_ranged(config)
    yield "augmentation.copies", config.augmentation.copies, Range(0, 1000)
    yield "augmentation.carve", config.augmentation.carve, SHARE
    yield "augmentation.rescan", config.augmentation.rescan, SHARE
    yield "autoencoder.slices", autoencoder.slices, Range(1, 64)
    yield "autoencoder.latent_channels", autoencoder.latent_channels, CHANNELS
    yield from _each("autoencoder.widths", autoencoder.widths, CHANNELS)
    yield from _each("autoencoder.encoder_blocks", autoencoder.encoder_blocks, Range(0, 64))
    yield from _each("autoencoder.decoder_blocks", autoencoder.decoder_blocks, Range(0, 64))
    yield "autoencoder.fine_width", autoencoder.fine_width, CHANNELS
    yield from _each("crops.shape", crops.shape, GRID_SIDE)
    yield "crops.tumour_share", crops.tumour_share, SHARE
    yield "crops.contrast_share", crops.contrast_share, SHARE
    yield "crops.jitter", crops.jitter, SHARE
    yield from _each("mask_grid", config.mask_grid, GRID_SIDE)
    for name, planar in (("mask_denoiser", config.mask_denoiser), ("denoiser", config.denoiser)):
        yield from _each(f"{name}.widths", planar.widths, CHANNELS)
        yield f"{name}.blocks", planar.blocks, BLOCKS
        yield f"{name}.embedding", planar.embedding, Range(8, 8192)
        yield f"{name}.heads", planar.heads, Range(1, 64)


def _mask_first_fit_faults(config: MaskFirstConfig) -> Iterator[str]:
    shape, slices = config.grid.shape, config.autoencoder.slices
    if math.prod(shape) > MAX_VOXELS:
        yield f"grid.shape: has {math.prod(shape)} voxels, at most {MAX_VOXELS} are allowed"
    if config.autoencoder.latent_channels % 4:
        yield f"autoencoder.latent_channels: is {config.autoencoder.latent_channels}, must be divisible by 4"
    for name, planar in (("mask_denoiser", config.mask_denoiser), ("denoiser", config.denoiser)):
        if not planar.widths:
            yield f"{name}.widths: must name one width or more"
            return
        if planar.widths[-1] % planar.heads:
            yield f"{name}.heads: is {planar.heads}, must divide the last of its widths ({planar.widths[-1]})"
    halves = 2 ** (len(config.denoiser.widths) - 1)
    if bad := _undivided(shape, (8 * halves, 8 * halves, slices * halves)):
        yield f"grid.shape {shape} must be divisible by {bad} (latent cell times the denoiser's halvings)"
    halves = 2 ** len(config.mask_denoiser.widths)
    if bad := _undivided(config.mask_grid, (halves,) * 3):
        yield f"mask_grid {config.mask_grid} must be divisible by {bad} (the mask denoiser's halvings)"
    if bad := _undivided(shape, config.mask_grid):
        yield f"mask_grid {config.mask_grid} must divide grid.shape {shape}"
    if bad := _undivided(config.crops.shape, (8, 8, slices)):
        yield f"crops.shape {config.crops.shape} must be divisible by {bad} (the latent cell)"
    if any(crop > side for crop, side in zip(config.crops.shape, shape, strict=True)):
        yield f"crops.shape {config.crops.shape} must not be larger than grid.shape {shape}"


def _undivided(sides: Sequence[int], by: Sequence[int]) -> str:
    """The divisors as text where a side is not divisible by its own, else empty."""
    return " x ".join(map(str, by)) if any(n % k for n, k in zip(sides, by, strict=True)) else ""


def _range_faults(ranged: Iterator[tuple[str, float, Range]]) -> Iterator[str]:
    for key, value, allowed in ranged:
        if not allowed.holds(value):
            yield f"{key}: is {value:g}, must be {allowed}"


def _ranged(config: SystemConfig) -> Iterator[tuple[str, float, Range]]:
    """(key, value, range) of every number."""
    yield from _common_ranged(config)
    vae, aggregator, denoiser = config.vae, config.aggregator, config.denoiser
    yield from _each("vae.widths", vae.widths, CHANNELS)
    yield from _each("vae.strides", vae.strides, Range(1, 2))
    yield "vae.unshuffle", vae.unshuffle, Range(1, 8)
    yield "vae.encoder_blocks", vae.encoder_blocks, BLOCKS
    yield "vae.decoder_blocks", vae.decoder_blocks, BLOCKS
    yield "vae.latent_channels", vae.latent_channels, CHANNELS
    yield "vae.groups", vae.groups, CHANNELS
    yield "vae.position_width", vae.position_width, Range(2, 4096)
    yield "vae.fine_width", vae.fine_width, CHANNELS
    yield from _each("aggregator.widths", aggregator.widths, CHANNELS)
    yield "aggregator.kl_weight", aggregator.kl_weight, WEIGHT
    yield from _each("denoiser.widths", denoiser.widths, CHANNELS)
    yield "denoiser.blocks", denoiser.blocks, BLOCKS
    yield "denoiser.groups", denoiser.groups, CHANNELS
    yield "denoiser.time_width", denoiser.time_width, Range(8, 8192)
    yield "denoiser.condition_width", denoiser.condition_width, Range(1, 8192)
    for name in ("l1", "ssim", "gradient", "cross_entropy", "dice", "kl"):
        yield f"autoencoder_loss.{name}", getattr(config.autoencoder_loss, name), WEIGHT
    yield "autoencoder_loss.tumour_share", config.autoencoder_loss.tumour_share, SHARE
    yield "autoencoder_loss.empty_share", config.autoencoder_loss.empty_share, SHARE


def _common_ranged(config: AnySystem) -> Iterator[tuple[str, float, Range]]:
    yield from _each("grid.shape", config.grid.shape, GRID_SIDE)
    yield from _each("grid.spacing_mm", config.grid.spacing_mm, SPACING_MM)
    if config.refiner is not None:
        yield "refiner.width", config.refiner.width, CHANNELS
        yield "refiner.blocks", config.refiner.blocks, BLOCKS
        yield "refiner.fine_width", config.refiner.fine_width, CHANNELS
    if config.distillation is not None:
        yield "distillation.guidance", config.distillation.guidance, GUIDANCE
    yield "schedule.steps", config.schedule.steps, Range(2, 65535)
    yield "schedule.beta_start", config.schedule.beta_start, BETA
    yield "schedule.beta_end", config.schedule.beta_end, BETA
    yield "sampling.eta", config.sampling.eta, SHARE
    yield "sampling.guidance", config.sampling.guidance, GUIDANCE
    yield "condition_dropout", config.condition_dropout, DECAY
    for name, stage in config.stages.items():
        yield f"stages.{name}.steps", stage.steps, COUNT
        yield f"stages.{name}.batch_size", stage.batch_size, Range(1, 65536)
        yield f"stages.{name}.learning_rate", stage.learning_rate, RATE
        yield f"stages.{name}.warmup_steps", stage.warmup_steps, COUNT
        yield f"stages.{name}.weight_decay", stage.weight_decay, SHARE
        yield f"stages.{name}.ema_decay", stage.ema_decay, DECAY


def _each(key: str, values: Sequence[float], allowed: Range) -> Iterator[tuple[str, float, Range]]:
    for index, value in enumerate(values):
        yield f"{key}[{index}]", value, allowed


def _modality_faults(config: AnySystem) -> Iterator[str]:
    if not config.modalities or len(set(config.modalities)) != len(config.modalities):
        yield f"modalities: are {_listed(config.modalities)}, must be one or more, each once"
    if unknown := [m for m in config.modalities if m not in MODALITIES]:
        yield f"modalities: unknown {unknown[0]!r}; allowed: {_listed(MODALITIES)}"


def _vocabulary_faults(config: SystemConfig) -> Iterator[str]:
    yield from _modality_faults(config)
    tissues, allowed = config.tissues, f"{WHOLE_TUMOUR} alone, or one or more of {_listed(TISSUES)}, each once"
    if (
        not tissues
        or len(set(tissues)) != len(tissues)
        or not (tissues == (WHOLE_TUMOUR,) or set(tissues) <= {*TISSUES})
    ):
        yield f"tissues: are {_listed(tissues)}, must be {allowed}"
    shares = {f"{tissue}_share" for tissue in tissues} if config.classes > 2 else set[str]()
    if missing := sorted({name for shell in config.denoiser.shells for name in shell} - shares):
        known = _listed(sorted(shares)) if shares else "none, the system has one tissue"
        yield f"denoiser.shells: unknown share {missing[0]!r}; allowed: {known}"


def _schedule_faults(config: AnySystem) -> Iterator[str]:
    schedule, sampling = config.schedule, config.sampling
    if schedule.beta_start > schedule.beta_end:
        yield (
            f"schedule.beta_end: is {schedule.beta_end:g}, must be at least beta_start ({schedule.beta_start:g}): "
            "noise grows from step to step"
        )
    if schedule.zero_terminal_snr and schedule.prediction_type == "epsilon":
        yield (
            "schedule.prediction_type: is epsilon, must be v_prediction or sample with zero_terminal_snr: "
            "the last step holds nothing but noise"
        )
    if not 1 <= sampling.steps <= schedule.steps:
        yield f"sampling.steps: is {sampling.steps}, must be from 1 to schedule.steps ({schedule.steps})"
    if sampling.sampler == "dpmpp-2m" and sampling.eta:
        yield f"sampling.eta: is {sampling.eta:g}, must be 0 with dpmpp-2m, which is deterministic"


def _wanted_beside(config: AnySystem) -> dict[str, str]:
    """Stages that parts which a system may lack need -> why."""
    wanted = {"refiner": ", which the refiner needs", "distill": ", which distillation needs"}
    absent = {"refiner": config.refiner is None, "distill": config.distillation is None}
    return {stage: why for stage, why in wanted.items() if not absent[stage]}


def _stage_faults(config: AnySystem, known: Sequence[str], wanted: Mapping[str, str]) -> Iterator[str]:
    """Stages that are not `known`, and missing ones of `wanted` (name -> why)."""
    if unknown := sorted(config.stages.keys() - {*known}):
        yield f"stages: unknown {unknown[0]!r}; allowed: {_listed(known)}"
    for name, why in wanted.items():
        if name not in config.stages:
            yield f"stages.{name} is missing{why}"


def _fit_faults(config: SystemConfig) -> Iterator[str]:
    vae, denoiser, shape = config.vae, config.denoiser, config.grid.shape
    if math.prod(shape) > MAX_VOXELS:
        yield f"grid.shape: has {math.prod(shape)} voxels, at most {MAX_VOXELS} are allowed"
    if not vae.widths or len(vae.widths) != len(vae.strides):
        yield "vae.widths and vae.strides differ in length, or are empty"
    if vae.form == "published" and vae.attention:
        yield "vae.attention must be false in the published form, which has none"
    last = vae.widths[-1] if vae.widths else 1
    if vae.groups >= 1 and last % vae.groups:
        yield f"vae.groups: is {vae.groups}, must divide the last of vae.widths ({last})"
    if vae.position_width % 2:
        yield f"vae.position_width: is {vae.position_width}, must be even"
    if denoiser.shells and not denoiser.ellipsoid:
        yield "denoiser.shells lie inside the ellipsoid: set denoiser.ellipsoid to true"
    if not denoiser.widths or (denoiser.form == "published" and len(denoiser.widths) < 2):
        yield "denoiser.widths: must name one width or more (two in the published form)"
    factor = vae.factor
    if factor < 1 or any(n % factor for n in shape[:2]):
        yield f"grid.shape {shape} in plane must be divisible by the autoencoder's factor {factor}"
        return
    yield from _latent_faults(config)


def _latent_faults(config: SystemConfig) -> Iterator[str]:
    """What keeps the aggregator from laying out Z, and the denoiser from halving it."""
    depth = config.grid.shape[2]
    plane = [n // config.vae.factor for n in config.grid.shape[:2]]
    sides = [depth, *plane]
    if config.aggregator.kind == "mosaic":
        tiles = math.isqrt(depth)
        if tiles * tiles != depth:
            yield f"grid.shape: {depth} slices along z, the mosaic needs a square number of them"
            return
        sides = [tiles * n for n in plane]
    halvings = len(config.denoiser.widths) - (2 if config.denoiser.form == "published" else 1)
    if halvings > 0 and any(side % 2**halvings for side in sides):
        shown = " x ".join(map(str, sides))
        yield (
            f"denoiser.widths: {len(config.denoiser.widths)} levels halve Z ({shown}) {halvings} times; "
            f"each side must be divisible by {2**halvings}"
        )
    if config.refiner is not None and any(n % 2 for n in config.grid.shape[:2]):
        yield f"grid.shape {config.grid.shape} in plane must be even for the refiner"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"

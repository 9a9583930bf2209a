"""The parity gate: an exported model equals its checkpoint, or there is no bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.checks import RMS_LIMIT as RMS_LIMIT
from ..engine.bundle.manifest import INT16_SCALE, BundleManifest
from ..engine.conditions.columns import blank
from ..engine.run.requests import Requests, sample_requests
from ..engine.sampling.batch import Batch
from ..engine.sampling.host import HostLoop
from ..engine.sampling.mask_first import MaskFirstModel
from ..engine.sampling.model import model_of
from ..engine.sampling.types import Arrays, RunComponent, SampleRequest, SamplingOptions, Volume
from .components import Component
from .rewrite.precision import Precision

DICE_LIMIT = 0.99
PSNR_LIMIT_DB = {"fp32": 60.0, "fp16": 40.0, "bf16": 30.0}
CLIPPED_SHARE = 0.01  # of the elements that may sit at an output's extremes beyond what the reference has there
FP16_LARGEST = 65504.0


@dataclass(frozen=True)
class Figure:
    """One output of one component on one kind of input."""

    component: str
    output: str
    case: str  # which inputs
    max_relative: float  # largest difference over the reference's largest magnitude
    rms_relative: float  # RMS of the difference over the reference's RMS
    fault: str | None  # NaN, Inf, constant, clipped, over the limit


@dataclass(frozen=True)
class VolumeFigure:
    """A whole sampled volume of the exported model against PyTorch from the same noise."""

    steps: int
    psnr_db: float | None  # of the images, peak = the written range; None: identical
    dice: dict[str, float]  # of each label and the brain; 1 where neither has it
    fault: str | None

    @property
    def psnr(self) -> str:
        """The PSNR in words."""
        return "identical images" if self.psnr_db is None else f"{self.psnr_db:.1f} dB"


@dataclass(frozen=True)
class ParityReport:
    """Everything that the gate measured."""

    precision: str
    rms_limit: float
    dice_limit: float
    components: tuple[Figure, ...]
    volume: VolumeFigure | None
    divergences: dict[str, str]  # failing component -> its first divergent layer
    rounding: tuple[Figure, ...] = ()  # networks of rounded weights beside the trained ones, where fp16 is stored
    reduced: ParityReport | None = None  # of the graphs in 16 bits beside these

    @property
    def passed(self) -> bool:
        """No figure carries a fault."""
        if self.reduced is not None and not self.reduced.passed:
            return False
        volume_fault = self.volume.fault if self.volume else None
        return volume_fault is None and all(figure.fault is None for figure in (*self.components, *self.rounding))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `parity.json`."""
        beside = {} if self.reduced is None else {self.reduced.precision: self.reduced.to_json()}
        return {"passed": self.passed, **asdict(self), "reduced": beside}


def compare(reference: NDArray[Any], made: NDArray[Any], limit: float) -> tuple[float, float, str | None]:
    """Largest and RMS relative error of `made`, and what is wrong with it if anything.

    An output is faulty where it holds NaN or Inf, is constant, is clipped (more than 1 % more of its elements than of
    the reference's share its largest or smallest value) or differs by more than `limit` RMS.
    """
    a, b = reference.astype(np.float64), made.astype(np.float64)
    if a.shape != b.shape:
        return float("inf"), float("inf"), f"shape {b.shape} where {a.shape} belongs"
    finite = np.isfinite(b)
    if not finite.all():
        kind = "NaN" if np.isnan(b).any() else "Inf"
        return float("inf"), float("inf"), f"{kind} in {100 * (1 - finite.mean()):.3g} % of the output"
    difference = b - a
    scale, peak = float(np.sqrt(np.mean(a**2))), float(np.abs(a).max())
    rms = float(np.sqrt(np.mean(difference**2))) / max(scale, 1e-30)
    largest = float(np.abs(difference).max()) / max(peak, 1e-30)
    if b.size > 1 and b.max() == b.min():
        return largest, rms, f"constant output {b.flat[0]:g}"
    if _share_at_extremes(b) > _share_at_extremes(a) + CLIPPED_SHARE or np.abs(b).max() >= FP16_LARGEST > peak:
        return largest, rms, f"clipped at {b.min():g} and {b.max():g}"
    return largest, rms, f"RMS {rms:.2e} over {limit:.0e}" if rms > limit else None


def _share_at_extremes(values: NDArray[np.float64]) -> float:
    at_ends = (values == values.max()).mean() + (values == values.min()).mean()
    return float(at_ends - 2 / values.size)


def check_component(
    component: Component, reference: RunComponent, made: RunComponent, cases: Mapping[str, Arrays], limit: float
) -> list[Figure]:
    """Figures of every output of a component on each named case of inputs, held to an RMS relative error."""
    figures = []
    for case, inputs in cases.items():
        expected, got = reference(component.name, inputs), made(component.name, inputs)
        for tensor in component.outputs:
            largest, rms, fault = compare(expected[tensor.name], got[tensor.name], limit)
            figures.append(Figure(component.name, tensor.name, case, largest, rms, fault))
    return figures


def sample_request(manifest: BundleManifest, seed: int) -> SampleRequest:
    """Sample 0 of a run of this seed, its condition drawn from the cohort as `generate --count 1 --seed SEED` does."""
    columns = manifest.condition_columns
    task = Requests.of(blank([column.name for column in columns]), manifest, seed).task(0)
    return sample_requests([task], columns)[0]


def sample_volume(
    run: RunComponent,
    manifest: BundleManifest,
    seed: int,
    options: SamplingOptions | None = None,
    label: NDArray[np.uint8] | None = None,
) -> Volume:
    """The volume of `sample_request`, as the engine makes it.

    Args:
        run: computes the components.
        manifest: of the bundle.
        seed: of the run.
        options: default to the bundle's own.
        label: (x, y, z) the mask of a mask-first model, where it is not to make its own.
    """
    request = replace(sample_request(manifest, seed), label=label)
    loop = HostLoop(model_of(manifest), run, options or SamplingOptions.default(manifest.defaults, seed))
    return loop.start([request])()[0]


def sample_maps(run: RunComponent, manifest: BundleManifest, seed: int) -> NDArray[np.float32]:
    """Normalised distance maps (3, z, x, y) of `sample_request`, as the mask stage of the engine makes them."""
    said = manifest.mask_first
    assert said is not None
    model, batch = MaskFirstModel.of(manifest, said), Batch([sample_request(manifest, seed)], 1, seed)
    mean, std = (np.array(values)[:, None, None, None] for values in (said.mask_maps.mean, said.mask_maps.std))
    return ((model.maps(run, batch, None)[0] - mean) / std).astype(np.float32)


def compare_maps(reference: RunComponent, made: RunComponent, manifest: BundleManifest, seed: int) -> Figure:
    """The distance maps of a whole mask stage, in fp32: the engine makes the mask of them, by the same rule."""
    said = manifest.mask_first
    assert said is not None
    expected, got = sample_maps(reference, manifest, seed), sample_maps(made, manifest, seed)
    case = f"maps after {said.mask_sampling.steps} steps"
    return Figure("mask_denoiser", "prediction", case, *compare(expected, got, RMS_LIMIT["fp32"]))


def compare_volumes(
    reference: Volume, made: Volume, labels: Sequence[str], steps: int, precision: Precision
) -> VolumeFigure:
    """PSNR of the images, and Dice of each label and of the brain (what is not 0) of two volumes."""
    error = float(np.mean((reference.image.astype(np.float64) - made.image) ** 2))
    psnr = None if error == 0 else float(10 * np.log10(INT16_SCALE**2 / error))
    dice = {name: _dice(reference.label == index, made.label == index) for index, name in enumerate(labels)}
    dice["brain"] = _dice(np.any(reference.image != 0, axis=0), np.any(made.image != 0, axis=0))
    worst = min(dice, key=lambda name: dice[name])
    fault = made.fault if made.fault != reference.fault else None
    if fault is None and dice[worst] < DICE_LIMIT:
        fault = f"Dice of {worst} {dice[worst]:.4f} under {DICE_LIMIT}"
    limit = PSNR_LIMIT_DB[precision]
    if fault is None and psnr is not None and psnr < limit:
        fault = f"PSNR {psnr:.1f} dB under {limit:g}"
    return VolumeFigure(steps, psnr, dice, fault)


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    both = int(a.sum()) + int(b.sum())
    return 1.0 if both == 0 else float(2 * (a & b).sum() / both)

"""The parity gate: an exported model equals its checkpoint, or there is no bundle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import NoiseSchedule
from ..kernels.assemble import assemble, one_hot
from .components import Component
from .rewrite.precision import Precision

RMS_LIMIT = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-2}
DICE_LIMIT = 0.99
VOLUME_STEPS = 20
DECODER_SLICES = 8  # decoded at once
CLIPPED_SHARE = 0.01  # of the elements that may sit at an output's extremes beyond what the reference has there
FP16_LARGEST = 65504.0

Arrays = Mapping[str, NDArray[Any]]


class Runner(Protocol):
    """Computes components; the engine's backends fit too."""

    def run(self, component: str, inputs: Arrays) -> Mapping[str, NDArray[Any]]:
        """Outputs of a component by tensor name."""
        ...


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
    dice: dict[str, float]  # a label; 1 where neither has it
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
    departures: dict[str, str]  # failing component -> where it first departs

    @property
    def passed(self) -> bool:
        """No figure carries a fault."""
        volume_fault = self.volume.fault if self.volume else None
        return volume_fault is None and all(figure.fault is None for figure in self.components)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `parity.json`."""
        return {"passed": self.passed, **asdict(self)}


def compare(reference: NDArray[Any], made: NDArray[Any], limit: float) -> tuple[float, float, str | None]:
    """Largest and RMS relative error of `made`, and what is wrong with it if anything.

    An output is faulty where it holds NaN or Inf, is constant, is clipped (more than 1 % more of its elements than of
    the reference's share its largest or smallest value) or departs by more than `limit` RMS.
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
    component: Component, reference: Runner, made: Runner, cases: Mapping[str, Arrays], precision: Precision
) -> list[Figure]:
    """Figures of every output of a component on each named case of inputs."""
    figures = []
    for case, inputs in cases.items():
        expected, got = reference.run(component.name, inputs), made.run(component.name, inputs)
        for tensor in component.outputs:
            largest, rms, fault = compare(expected[tensor.name], got[tensor.name], RMS_LIMIT[precision])
            figures.append(Figure(component.name, tensor.name, case, largest, rms, fault))
    return figures


def sample_volume(
    runner: Runner,
    components: Mapping[str, Component],
    schedule: NoiseSchedule,
    noise: NDArray[np.float32],
    condition: NDArray[np.float32],
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Images (1, M, X, Y, D) and labels (1, X, Y, D) of one volume by DDIM (Song et al. 2021, eq. 12, eta 0).

    Args:
        runner: who computes.
        components: of the system; tells whether there is a refiner.
        schedule: whose table to follow.
        noise: initial Z (1, C, ...).
        condition: normalised (1, K).
    """
    table = np.asarray(schedule.alphas_cumprod)
    times = np.linspace(len(table) - 1, 0, VOLUME_STEPS + 1).round().astype(int)
    z = noise.astype(np.float64)
    for now, after in itertools.pairwise(times):
        inputs = {
            "sample": z.astype(np.float32),
            "timestep": np.array([now], np.float32),
            "condition": condition,
            "condition_mask": np.ones(1, np.float32),
        }
        prediction = runner.run("denoiser", inputs)["prediction"].astype(np.float64)
        clean, residue = _split(schedule.prediction_type, z, prediction, float(table[now]))
        z = np.sqrt(table[after]) * clean + np.sqrt(1 - table[after]) * residue
    slices = runner.run("aggregator", {"latent": z.astype(np.float32)})["slices"][0]
    image, logits = decode_slices(runner, slices)
    if "refiner" in components:
        image = runner.run("refiner", {"image": image[None], "label": one_hot(logits)[None]})["refined"][0]
    return assemble(image, logits, len(slices), threshold=0.0)


def _split(
    kind: str, z: NDArray[np.float64], prediction: NDArray[np.float64], signal: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clean latent and noise in z_t = sqrt(signal) clean + sqrt(1 - signal) noise, for what the network predicts."""
    a, s = np.sqrt(signal), np.sqrt(1 - signal)
    if kind == "v_prediction":  # Salimans & Ho 2022, appendix D
        return a * z - s * prediction, a * prediction + s * z
    if kind == "epsilon":
        return (z - s * prediction) / a, prediction
    return prediction, (z - a * prediction) / s


def decode_slices(runner: Runner, slices: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image (D, M, X, Y) and label logits (D, L, X, Y) of slice latents (D, c, h, w), a few slices at a time."""
    position = np.arange(len(slices), dtype=np.int64)
    parts = [
        runner.run(
            "decoder", {"latent": slices[at : at + DECODER_SLICES], "position": position[at : at + DECODER_SLICES]}
        )
        for at in range(0, len(slices), DECODER_SLICES)
    ]
    return np.concatenate([part["image"] for part in parts]), np.concatenate([part["label_logits"] for part in parts])


def compare_volumes(
    reference: tuple[NDArray[np.int16], NDArray[np.uint8]],
    made: tuple[NDArray[np.int16], NDArray[np.uint8]],
    labels: Sequence[str],
) -> VolumeFigure:
    """PSNR of the images and Dice of each label of two volumes (images, labels)."""
    error = float(np.mean((reference[0].astype(np.float64) - made[0]) ** 2))
    psnr = None if error == 0 else float(10 * np.log10(1000.0**2 / error))
    dice: dict[str, float] = {}
    for index, name in enumerate(labels):
        a, b = reference[1] == index, made[1] == index
        both = int(a.sum()) + int(b.sum())
        dice[name] = 1.0 if both == 0 else float(2 * (a & b).sum() / both)
    worst = min(dice, key=lambda name: dice[name])
    fault = f"Dice of {worst} {dice[worst]:.4f} under {DICE_LIMIT}" if dice[worst] < DICE_LIMIT else None
    return VolumeFigure(VOLUME_STEPS, psnr, dice, fault)

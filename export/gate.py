"""Runs the parity gate over all components and words its verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from ..engine.bundle.manifest import NoiseSchedule
from ..engine.errors import InvalidInputError
from ..train.config import SystemConfig
from .cases import Cases, random_cases, real_cases
from .components import Component
from .departure import first_departure
from .parity import (
    DICE_LIMIT,
    RMS_LIMIT,
    Figure,
    ParityReport,
    VolumeFigure,
    check_component,
    compare_volumes,
    sample_volume,
)
from .rewrite.precision import Precision
from .runners import OnnxRunner, TorchRunner

SEED = 20260101


@dataclass(frozen=True)
class GateInputs:
    """What the gate compares on beside fresh random inputs."""

    config: SystemConfig
    schedule: NoiseSchedule
    real_latents: NDArray[np.float32] | None  # (1, D, c, h, w)


def run_gate(
    components: Mapping[str, Component],
    models: Mapping[str, onnx.ModelProto],
    inputs: GateInputs,
    precision: Precision,
    progress: Callable[[str], None],
) -> ParityReport:
    """Compare every graph with its network, then a whole volume; nothing is raised, the report says what failed."""
    config, depth = inputs.config, inputs.config.grid.shape[2]
    reference, made = TorchRunner(components), OnnxRunner(models)
    figures: list[Figure] = []
    departures: dict[str, str] = {}
    real: Mapping[str, Cases] = {}
    if inputs.real_latents is not None:
        real = real_cases(components, reference, inputs.schedule, inputs.real_latents)
    for name, component in components.items():
        progress(f"parity of {name}")
        cases = random_cases(component, depth, config.schedule.steps) | real.get(name, {})
        found = check_component(component, reference, made, cases, precision)
        figures += found
        bad = [figure for figure in found if figure.fault]
        if bad:
            departures[name] = first_departure(component, models[name], cases[bad[0].case], RMS_LIMIT[precision])
    volume = None
    if not departures:
        progress("parity of a whole volume")
        volume = _volume(components, reference, made, inputs)
    return ParityReport(precision, RMS_LIMIT[precision], DICE_LIMIT, tuple(figures), volume, departures)


def require_passed(report: ParityReport) -> None:
    """Raises InvalidInputError with the table of failed figures where the gate was not passed."""
    if not report.passed:
        raise InvalidInputError(
            "the export does not equal its checkpoint; no bundle was written\n" + fault_table(report)
        )


def fault_table(report: ParityReport) -> str:
    """The failed figures, one a line, and where each component first departs."""
    lines = [
        f"  {figure.component}: {figure.output} ({figure.case}): {figure.fault}; largest {figure.max_relative:.2e}"
        for figure in report.components
        if figure.fault
    ]
    lines += [f"  {component} first departs {where}" for component, where in report.departures.items()]
    if report.volume and report.volume.fault:
        lines.append(
            f"  volume after {report.volume.steps} steps: {report.volume.fault}, {report.volume.psnr_db:.1f} dB"
        )
    return "\n".join(lines)


def _volume(
    components: Mapping[str, Component], reference: TorchRunner, made: OnnxRunner, inputs: GateInputs
) -> VolumeFigure:
    random = np.random.default_rng(SEED)
    shapes = {tensor.name: [int(size) for size in tensor.shape[1:]] for tensor in components["denoiser"].inputs}
    noise = random.standard_normal((1, *shapes["sample"]), np.float32)
    condition = random.standard_normal((1, *shapes["condition"]), np.float32)
    volumes = [sample_volume(runner, components, inputs.schedule, noise, condition) for runner in (reference, made)]
    return compare_volumes(volumes[0], volumes[1], ("background", *inputs.config.tissues))

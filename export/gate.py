"""Runs the parity gate over all components and words its verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from ..engine.bundle.load import component_precision
from ..engine.bundle.manifest import BundleManifest
from ..engine.errors import InvalidInputError
from ..engine.sampling.types import RunComponent
from ..train.config import AnySystem
from .cases import Cases, random_cases, real_cases
from .components import Component
from .divergence import first_divergent_layer
from .mask_first_cases import mask_first_cases
from .parity import (
    DICE_LIMIT,
    RMS_LIMIT,
    Figure,
    ParityReport,
    VolumeFigure,
    check_component,
    compare_maps,
    compare_volumes,
    sample_volume,
)
from .rewrite.precision import Precision
from .runners import OnnxRunner, torch_runner

SEED = 20260101


@dataclass(frozen=True)
class GateInputs:
    """What the gate compares on beside fresh random inputs."""

    config: AnySystem
    manifest: BundleManifest  # of the bundle to be
    real_latents: NDArray[np.float32] | None  # of one case, from `plausibility.gate_latents`


def run_gate(
    components: Mapping[str, Component],
    models: Mapping[str, onnx.ModelProto],
    inputs: GateInputs,
    precision: Precision,
    progress: Callable[[str], None],
    engine: RunComponent | None = None,
) -> ParityReport:
    """Compare every graph with its network, then a whole volume; nothing is raised, the report says what failed.

    Graphs that stay in fp32 whatever the precision are held to the limit of fp32.

    `engine` computes the volume's components: the backend of the bundle to be; None takes `models` as they are.
    """
    config, manifest, depth = inputs.config, inputs.manifest, inputs.config.grid.shape[2]
    reference, made = torch_runner(components, manifest.form).run, OnnxRunner(models).run
    figures: list[Figure] = []
    divergences: dict[str, str] = {}
    meaningful = _meaningful_cases(components, reference, inputs)
    for name, component in components.items():
        progress(f"parity of {name}")
        cases = random_cases(component, depth, config.schedule.steps) | meaningful.get(name, {})
        limit = RMS_LIMIT[component_precision(name, precision)]
        found = check_component(component, reference, made, cases, limit)
        figures += found
        bad = [figure for figure in found if figure.fault]
        if bad:
            where = first_divergent_layer(component, models[name], cases[bad[0].case], limit)
            divergences[name] = where
    volume = None
    if not divergences:
        progress("parity of a whole volume")
        made = engine or made
        if manifest.form == "mask-first":
            figures.append(compare_maps(reference, made, manifest, SEED))
        volume = _compared_volume(reference, made, manifest, precision)
    return ParityReport(precision, RMS_LIMIT[precision], DICE_LIMIT, tuple(figures), volume, divergences)


def _meaningful_cases(
    components: Mapping[str, Component], reference: RunComponent, inputs: GateInputs
) -> Mapping[str, Cases]:
    """Inputs that belong together, by component and name."""
    manifest, real = inputs.manifest, inputs.real_latents
    if manifest.form == "mask-first":
        return mask_first_cases(reference, manifest, real)
    return {} if real is None else real_cases(components, reference, manifest.schedule, real)


def _compared_volume(
    reference: RunComponent, made: RunComponent, manifest: BundleManifest, precision: Precision
) -> VolumeFigure:
    """A whole volume of both; in the mask-first form on the reference's mask, so that its image is compared alone."""
    expected = sample_volume(reference, manifest, SEED)
    given = expected.label if manifest.form == "mask-first" else None
    got = sample_volume(made, manifest, SEED, label=given)
    return compare_volumes(expected, got, manifest.labels, manifest.defaults.steps, precision)


def require_passed(report: ParityReport) -> None:
    """Raises InvalidInputError with the table of failed figures where the gate was not passed."""
    if not report.passed:
        raise InvalidInputError(
            "the export does not equal its checkpoint; no bundle was written\n" + fault_table(report)
        )


def fault_table(report: ParityReport) -> str:
    """The failed figures, one a line, and the first divergent layer of each component."""
    lines = [
        f"  {figure.component}: {figure.output} ({figure.case}): {figure.fault}; largest {figure.max_relative:.2e}"
        for figure in report.components
        if figure.fault
    ]
    lines += [
        f"  {figure.component}: {figure.output} ({figure.case}), weights rounded to fp16: {figure.fault}"
        for figure in report.rounding
        if figure.fault
    ]
    lines += [f"  {component}: first divergent layer {where}" for component, where in report.divergences.items()]
    if report.volume and report.volume.fault:
        lines.append(f"  volume after {report.volume.steps} steps: {report.volume.fault}, {report.volume.psnr}")
    if report.reduced is not None and not report.reduced.passed:
        lines += [f"graphs in {report.reduced.precision}:", fault_table(report.reduced)]
    return "\n".join(lines)

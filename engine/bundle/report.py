"""What a bundle says of itself, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..conditions.columns import ConditionColumn
from ..errors import InvalidInputError
from ..files import read_bounded
from .card import read_evaluation
from .load import Bundle
from .manifest import MaskFirst, SamplingDefaults, TensorSpec, manifest_summary

PARITY_NAME = "parity.json"
MAX_PARITY_BYTES = 16 * 2**20
USUAL = 1.96  # deviations: 95 % of a normal cohort
LARGEST_EXPONENT = 700.0


def usual_range(column: ConditionColumn) -> tuple[float, float]:
    """Where 95 % of the training cohort lie, in the column's unit; shares and places held within 0..1."""
    low, high = (column.mean + sign * USUAL * column.std for sign in (-1, 1))
    if column.log:
        return math.exp(min(low, LARGEST_EXPONENT)), math.exp(min(high, LARGEST_EXPONENT))
    return max(low, 0.0), min(high, 1.0)


def read_parity(bundle: Bundle) -> dict[str, Any] | None:
    """The content of `parity.json`; None where the bundle has none.

    Raises:
        InvalidInputError: it is not a JSON object.
    """
    if PARITY_NAME not in bundle.manifest.files:
        return None
    path = bundle.path / PARITY_NAME
    try:
        data = json.loads(read_bounded(path, MAX_PARITY_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path}: must be a JSON object")
    return data


def report_data(bundle: Bundle) -> dict[str, Any]:
    """Manifest, usual ranges of the conditions, hash, parity and the card's evaluation (Markdown) as plain data."""
    ranges = {column.name: list(usual_range(column)) for column in bundle.manifest.condition_columns}
    return {
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "files_verified": True,
        "manifest": dict(manifest_summary(bundle.manifest)),
        "usual_ranges": ranges,
        "parity": read_parity(bundle),
        "evaluation": read_evaluation(bundle),
    }


def report_text(bundle: Bundle) -> str:
    """The same for people."""
    manifest, total = bundle.manifest, sum(record.bytes for record in bundle.manifest.files.values())
    grid = manifest.grid
    provenance = manifest.provenance
    lines = [
        f"{manifest.id}  ({bundle.path})",
        f"preset {manifest.preset}, form {manifest.form}, precision {', '.join(bundle.precisions)}, "
        f"opset {manifest.opset}",
        f"grid {_times(grid.shape)} voxels of {_times(grid.spacing_mm)} mm; {', '.join(manifest.modalities)}; "
        f"labels {', '.join(manifest.labels)}",
        f"latent {_times(manifest.latent.shape)}",
        f"{len(manifest.files)} files, {total / 2**20:.1f} MiB, every size and sha256 as listed; "
        f"bundle {bundle.sha256[:16]}",
        "",
        "components",
        *_components(bundle),
        "",
        f"schedule  {manifest.schedule.name}; predicts {manifest.schedule.prediction_type}",
        f"default   {sampling_text(manifest.defaults)}",
        *_mask_first(manifest.mask_first),
        "",
        f"conditions (95 % of {manifest.cohort.cases} training cases)",
        *_conditions(bundle),
        "",
        f"data      {provenance.data}",
        f"training  {provenance.training}",
        f"made with sbldm-engine {provenance.code_version}, {provenance.date}; licence {provenance.licence}",
        f"use       {manifest.intended_use}",
        "",
        *_parity(bundle),
        "",
        *_evaluation(bundle),
    ]
    return "\n".join(lines)


def sampling_text(sampling: SamplingDefaults) -> str:
    """A sampler and its settings in words."""
    return f"{sampling.sampler}, {sampling.steps} steps, eta {sampling.eta:g}, guidance {sampling.guidance:g}"


def source_text(said: MaskFirst) -> str:
    """What a mask-first model's samples are drawn as, in words."""
    return "real scans" if said.source == 1.0 else "phantoms"


def _mask_first(said: MaskFirst | None) -> list[str]:
    if said is None:
        return []
    return [
        f"mask      first, {sampling_text(said.mask_sampling)}, maps {_times(said.mask_maps.shape)}",
        f"images    drawn as {source_text(said)}, {said.slab_slices} slices a slab",
    ]


def _components(bundle: Bundle) -> list[str]:
    lines = []
    for name, spec in bundle.manifest.components.items():
        record = bundle.manifest.files[spec.file]
        lines.append(f"  {name:<18} {record.bytes / 2**20:7.2f} MiB  sha256 {record.sha256[:12]} ok")
        lines.append(f"    {_tensors(spec.inputs)} -> {_tensors(spec.outputs)}")
    return lines


def _conditions(bundle: Bundle) -> list[str]:
    ranges = {column.name: usual_range(column) for column in bundle.manifest.condition_columns}
    return [f"  {name:<12} {low:10.4g} .. {high:.4g}" for name, (low, high) in ranges.items()]


def _parity(bundle: Bundle) -> list[str]:
    parity = read_parity(bundle)
    if parity is None:
        return ["parity    no figures in this bundle"]
    try:
        return _parity_lines(parity)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{bundle.path / PARITY_NAME}: not a parity report ({error!r})") from error


def _parity_lines(parity: Mapping[str, Any]) -> list[str]:
    lines = [f"parity with PyTorch fp32 (RMS limit {parity.get('rms_limit')})", "  largest   RMS       output"]
    for figure in parity.get("components", []):
        where = f"{figure['component']}.{figure['output']} ({figure['case']})"
        lines.append(f"  {figure['max_relative']:.1e}   {figure['rms_relative']:.1e}   {where}")
    rounding = parity.get("rounding")
    if rounding:
        worst = max(figure["rms_relative"] for figure in rounding)
        lines.append(f"  {worst:.1e}   RMS, at most, by which rounding weights to fp16 changed outputs")
    volume = parity.get("volume")
    if volume:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in volume["dice"].items())
        psnr = "identical images" if volume["psnr_db"] is None else f"{volume['psnr_db']:.1f} dB"
        lines.append(f"  volume after {volume['steps']} steps: {psnr}, Dice {dice}")
    return lines


def _evaluation(bundle: Bundle) -> list[str]:
    section = read_evaluation(bundle)
    if section is None:
        return ["evaluation  none in this bundle's card; `evaluate --bundle PATH --card` writes one"]
    return ["evaluation", *(f"  {line}".rstrip() for line in section.splitlines())]


def _tensors(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} ({', '.join(map(str, spec.shape))}) {spec.dtype}" for spec in specs)


def _times(sizes: tuple[float, ...]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)

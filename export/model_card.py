"""README.md of a bundle: the model card."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.bundle.manifest import BundleManifest
from ..engine.bundle.report import sampling_text, source_text
from .parity import ParityReport


def model_card(manifest: BundleManifest, parity: ParityReport, accepted: Sequence[str] = ()) -> str:
    """Markdown: what the model makes, from what it was trained, how near the export is, what it is not for.

    `accepted`: faults that the export was forced to accept.
    """
    grid, provenance = manifest.grid, manifest.provenance
    size = " x ".join(str(n) for n in grid.shape)
    spacing = " x ".join(f"{n:g}" for n in grid.spacing_mm)
    columns = ", ".join(f"`{column.name}`" for column in manifest.condition_columns)
    sections = [
        f"# {manifest.id}",
        f"Synthetic brain MRI ({', '.join(manifest.modalities)}) with tumour labels "
        f"({', '.join(manifest.labels[1:])}), {size} voxels of {spacing} mm. Preset `{manifest.preset}`, "
        f"precision {manifest.precision}, opset {manifest.opset}.",
        "## Intended use",
        manifest.intended_use,
        "Every volume is synthetic and marked so in its NIfTI header. Not a medical device; not for diagnosis.",
        "## Conditions",
        f"{columns}. Ranges and normalisation are those of the {manifest.cohort.cases} training cases (`bundle.json`).",
        "## Training data and provenance",
        f"- data: {provenance.data}\n- training: {provenance.training}\n- made with: sbldm-engine "
        f"{provenance.code_version}, {provenance.date}\n- licence of the weights: {provenance.licence}",
        *([f"## Faults that this export was forced to accept\n\n{bulleted(accepted)}"] if accepted else []),
        "## Equality with the trained networks",
        parity_table(parity),
        "## Sampling",
        f"{_how_it_samples(manifest)} Schedule: {manifest.schedule.name}, predicts "
        f"`{manifest.schedule.prediction_type}`.",
    ]
    return "\n\n".join(sections) + "\n"


def _how_it_samples(manifest: BundleManifest) -> str:
    said = manifest.mask_first
    if said is None:
        return f"Default: {sampling_text(manifest.defaults)}."
    return (
        f"The mask comes first ({sampling_text(said.mask_sampling)}); its volume and shares are met to the voxel. Then "
        f"the image around it, drawn as {source_text(said)} ({sampling_text(manifest.defaults)})."
    )


def bulleted(lines: Sequence[str]) -> str:
    """Markdown list of lines."""
    return "\n".join(f"- {line}" for line in lines)


def parity_table(parity: ParityReport) -> str:
    """Markdown table of the worst figure of each component, and the whole volume."""
    lines = ["| component | largest error | RMS error |", "| --- | --- | --- |"]
    for name in dict.fromkeys(figure.component for figure in parity.components):
        mine = [figure for figure in parity.components if figure.component == name]
        largest, rms = max(f.max_relative for f in mine), max(f.rms_relative for f in mine)
        lines.append(f"| {name} | {largest:.1e} | {rms:.1e} |")
    text = "Errors relative to PyTorch in fp32, worst of all inputs tried.\n\n" + "\n".join(lines)
    if parity.rounding:
        worst = max(parity.rounding, key=lambda figure: figure.rms_relative)
        text += (
            "\n\nThe weights are stored as fp16. PyTorch had the same rounded weights; rounding changed the networks' "
            f"outputs by an RMS of {worst.rms_relative:.1e} at most ({worst.component})."
        )
    if parity.reduced is not None:
        worst = max(parity.reduced.components, key=lambda figure: figure.rms_relative)
        text += (
            f"\n\nBeside them lie graphs in {parity.reduced.precision} for GPUs: RMS error {worst.rms_relative:.1e} at "
            f"most ({worst.component}), each intermediate rounded as a GPU does it."
        )
    if parity.volume is not None:
        dice = ", ".join(f"{name} {value:.4f}" for name, value in parity.volume.dice.items())
        text += f"\n\nA whole volume after {parity.volume.steps} steps: {parity.volume.psnr}, Dice {dice}."
    return text

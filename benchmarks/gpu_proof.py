"""What a GPU must give to pass: the reference's components, latents and volumes within the limits of a precision.

The reference is ONNX Runtime on the CPU with the fp32 graphs, on the same noise. Limits are such that a result of
another model, of other samples, with modalities in another order or without its tumour is far outside.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.checks import RMS_LIMIT, check_faults, check_inputs, reference_elements
from ..engine.bundle.load import Bundle, component_precision
from ..engine.bundle.manifest import INT16_SCALE
from ..engine.conditions.columns import blank
from ..engine.processor import available_threads
from ..engine.run.requests import Requests, sample_requests
from ..engine.sampling.host import HostLoop
from ..engine.sampling.mask_first import MaskFirstModel
from ..engine.sampling.model import model_of
from ..engine.sampling.types import BatchLoop, RunComponent, SampleRequest, SamplingOptions, Volume
from .quality import dice

SAMPLES = 2  # compared
FEWEST_VOXELS = 64  # of a label in the reference, for its Dice to be judged


@dataclass(frozen=True)
class Limits:
    """Of a precision."""

    latent_rms: float  # largest RMS of the latents' difference over the reference's RMS
    psnr_db: float  # smallest of any modality of any sample, over the written range
    dice: float  # smallest of any label of any sample


LIMITS = {
    "fp32": Limits(1e-3, 55.0, 0.99),
    "tf32": Limits(2e-2, 40.0, 0.97),
    "fp16": Limits(2e-2, 40.0, 0.97),
    "bf16": Limits(1e-1, 40.0, 0.93),
}


class Failed(Exception):
    """A proof failed; `figures` are what was measured."""

    def __init__(self, faults: Sequence[str], figures: dict[str, Any]) -> None:
        super().__init__("; ".join(faults))
        self.figures = figures


@dataclass(frozen=True)
class Reference:
    """What the CPU engine makes of the first samples of a run, with what each was asked for."""

    requests: list[SampleRequest]
    volumes: list[Volume]
    latents: NDArray[np.float32]
    maps: NDArray[np.float32] | None = None  # of the mask-first form: what the masks are cut out of


def proof_options(bundle: Bundle, batch: int = SAMPLES, steps: int | None = None) -> SamplingOptions:
    """The bundle's own, with noise in each step, so that a GPU's noise is compared too."""
    options = SamplingOptions.default(bundle.manifest.defaults, batch_size=batch)
    eta = 1.0 if options.sampler == "ddim" else 0.0
    return replace(options, eta=eta, steps=steps or options.steps)


def proof_requests(bundle: Bundle, count: int = SAMPLES) -> list[SampleRequest]:
    """The first samples of a run, their conditions drawn from the cohort as `generate --count` does."""
    columns = bundle.manifest.condition_columns
    drawn = Requests.of(blank([column.name for column in columns]), bundle.manifest, seed=0)
    return sample_requests([drawn.task(number) for number in range(count)], columns)


def make_reference(bundle: Bundle, options: SamplingOptions) -> Reference:
    """By ONNX Runtime on the CPU. Failed where the volumes would prove nothing: blank images, masks without tumour."""
    run = OnnxRuntimeBackend(bundle, "cpu", available_threads()).run
    requests = proof_requests(bundle)
    loop = HostLoop(model_of(bundle.manifest), run, options)
    batch = loop.batch(requests)
    told = loop.model.tell(run, batch, None)
    latents = loop.denoise(batch, told, batch.noise(loop.model.latent_shape, 0), loop.plan)
    volumes = loop.model.decode(run, batch, told, latents)
    faults = [f"the reference's sample {volume.number}: {volume.fault}" for volume in volumes if volume.fault]
    faults += [f"the reference's sample {v.number} has no tumour" for v in volumes if not v.label.any()]
    if faults:
        raise Failed(faults, {})
    maps = loop.model.maps(run, batch, None) if isinstance(loop.model, MaskFirstModel) else None
    return Reference(requests, volumes, latents, maps)


def prove_components(bundle: Bundle, run: RunComponent, precision: str) -> dict[str, Any]:
    """RMS error of every component on the bundle's check inputs; Failed where one is over its limit."""
    figures: dict[str, Any] = {}
    faults: list[str] = []
    for name, spec in bundle.manifest.components.items():
        inputs = check_inputs(spec, SAMPLES)
        limit = RMS_LIMIT[component_precision(name, precision)]
        worst, found = check_faults(run(name, inputs), reference_elements(bundle, name), limit)
        figures[f"{name}_rms"] = float(f"{worst:.3g}")
        faults += [f"{name}.{fault}" for fault in found]
    if faults:
        raise Failed(faults, figures)
    return figures


def prove_latents(made: NDArray[np.float32], expected: NDArray[np.float32], precision: str) -> dict[str, Any]:
    """RMS error of the latents (N, ...) over the reference's RMS, the worst sample's; Failed over its limit."""
    difference = (made.astype(np.float64) - expected).reshape(len(expected), -1)
    scale = np.sqrt(np.mean(expected.astype(np.float64).reshape(len(expected), -1) ** 2, axis=1))
    rms = np.sqrt(np.mean(difference**2, axis=1)) / scale
    figures = {"latent_rms": float(f"{rms.max():.3g}")}
    limit = LIMITS[precision].latent_rms
    if not rms.max() <= limit:  # NaN fails, too
        raise Failed([f"latents: RMS error {rms.max():.2e} over {limit:.0e} in sample {rms.argmax()}"], figures)
    return figures


def prove_volumes(
    made: Sequence[Volume], expected: Sequence[Volume], labels: Sequence[str], precision: str
) -> dict[str, Any]:
    """PSNR of the worst modality and Dice of the worst label; Failed under a limit, for a fault or another order."""
    limits, faults = LIMITS[precision], []
    psnr, dice = float("inf"), 1.0
    for ours, theirs in zip(made, expected, strict=True):
        sample = f"sample {theirs.number}"
        if (ours.number, ours.fault) != (theirs.number, theirs.fault):
            faults.append(f"{sample}: is sample {ours.number} with fault {ours.fault}, not {theirs.fault}")
        for modality, (a, b) in enumerate(zip(ours.image, theirs.image, strict=True)):
            found = image_psnr(a, b)
            psnr = min(psnr, found)
            if found < limits.psnr_db:
                faults.append(f"{sample}: modality {modality} has PSNR {found:.1f} dB, under {limits.psnr_db:g}")
        for name, found in label_dice(ours.label, theirs.label, labels).items():
            dice = min(dice, found)
            if found < limits.dice:
                faults.append(f"{sample}: {name} has Dice {found:.3f}, under {limits.dice:g}")
    figures = {"psnr_db": None if psnr == float("inf") else round(psnr, 1), "dice": round(dice, 4)}
    if faults:
        raise Failed(faults, figures)
    return figures


def image_psnr(made: NDArray[np.int16], expected: NDArray[np.int16]) -> float:
    """Of a modality, in dB over the written range, within the reference's brain and what was drawn beside it."""
    drawn = (made != 0) | (expected != 0)
    if not drawn.any():
        return float("inf")
    error = float(np.mean((made[drawn].astype(np.float64) - expected[drawn]) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(INT16_SCALE**2 / error))


def label_dice(made: NDArray[np.uint8], expected: NDArray[np.uint8], labels: Sequence[str]) -> dict[str, float]:
    """Of the whole tumour, and of each label that has enough voxels in the reference to be judged."""
    found = {"whole tumour": dice(made > 0, expected > 0)}
    for index, name in enumerate(labels):
        if index and np.count_nonzero(expected == index) >= FEWEST_VOXELS:
            found[name] = dice(made == index, expected == index)
    return found


def prove_repeats(runs: Sequence[tuple[str, list[Volume]]]) -> dict[str, Any]:
    """Whether runs, each with its name, gave the same bytes; Failed where one did not."""
    (first, wanted), *others = runs
    faults = [f"{name} gives other bytes than {first}" for name, made in others if _bytes(made) != _bytes(wanted)]
    figures = {"equal_bytes": [name for name, _ in runs]}
    if faults:
        raise Failed(faults, figures)
    return figures


def prove_all(parts: Sequence[Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """The figures of every part; Failed, with the faults of all, where one failed.

    Each part's are told on stderr at once, for who has no time for the others.
    """
    figures: dict[str, Any] = {}
    faults: list[str] = []
    for part in parts:
        start = time.perf_counter()
        try:
            found = part()
        except Failed as failed:
            found = failed.figures
            faults.append(str(failed))
        figures |= found
        print(
            f"after {time.perf_counter() - start:.1f} s: {json.dumps(found)} {'; '.join(faults)}",
            file=sys.stderr,
            flush=True,
        )
    if faults:
        raise Failed(faults, figures)
    return figures


def prove_loop(bundle: Bundle, reference: Reference, loop: BatchLoop, precision: str) -> dict[str, Any]:
    """Volumes of a loop against the reference.

    Images of a mask-first bundle are compared on the reference's masks; its own masks, and the maps that they are cut
    out of, are held to the limits of fp32 in every precision (`FP32_COMPONENTS`).
    """
    labels = bundle.manifest.labels
    made = loop.start(reference.requests)()
    if bundle.manifest.mask_first is None:
        return prove_volumes(made, reference.volumes, labels, precision)
    given = on_masks_of(reference)
    drawn = [replace(volume, image=theirs.image) for volume, theirs in zip(made, reference.volumes, strict=True)]
    return prove_all(
        [
            lambda: _named(lambda: _prove_maps(loop, reference), "latent_rms", "maps_rms"),
            lambda: _named(lambda: prove_volumes(drawn, reference.volumes, labels, "fp32"), "dice", "drawn_dice"),
            lambda: prove_volumes(loop.start(given)(), reference.volumes, labels, precision),
        ]
    )


def _prove_maps(loop: BatchLoop, reference: Reference) -> dict[str, Any]:
    """RMS error of the distance maps that the masks are cut out of, standardised, as `prove_latents` has it."""
    assert isinstance(loop, HostLoop)
    assert isinstance(loop.model, MaskFirstModel)
    assert reference.maps is not None
    scale = loop.model.form.mask_maps
    mean, std = (np.array(values, np.float32)[:, None, None, None] for values in (scale.mean, scale.std))
    made = loop.model.maps(loop.run, loop.batch(reference.requests), None)
    return prove_latents((made - mean) / std, (reference.maps - mean) / std, "fp32")


def _named(part: Callable[[], dict[str, Any]], figure: str, name: str) -> dict[str, Any]:
    """One figure of a part, under another name."""
    try:
        return {name: part()[figure]}
    except Failed as failed:
        raise Failed([f"{name}: {failed}"], {name: failed.figures.get(figure)}) from failed


def on_masks_of(reference: Reference) -> list[SampleRequest]:
    """The reference's requests, each with the mask that the reference made."""
    made = zip(reference.requests, reference.volumes, strict=True)
    return [replace(request, label=volume.label) for request, volume in made]


def _bytes(volumes: Sequence[Volume]) -> list[tuple[bytes, bytes]]:
    return [(volume.image.tobytes(), volume.label.tobytes()) for volume in volumes]

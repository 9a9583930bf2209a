"""How near few steps of a mask-first bundle come to 250 of DDIM, sampler by sampler, stage by stage.

python -m sbldm.benchmarks.few_steps [--bundle glioma] [--count 12]

Samples are the first of a run. Masks: median Dice of each tissue with the mask of 250 steps, and the mean relative
error of box, surface and sphericity against what was asked for. Images, all on the masks of 250 steps: PSNR within the
brain to the image of 250 steps, median; fine structure (the image less its Gaussian of 1.5 pixels) over that of 250
steps, modality by modality. What a step costs tells `bench`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.fitted import fitted_numbers
from ..engine.bundle.load import Bundle
from ..engine.bundle.manifest import INT16_SCALE, FittedSteps, MaskFirst, SamplingDefaults
from ..engine.errors import InvalidInputError
from ..engine.output.measure import measure_tumour
from ..engine.processor import available_threads
from ..engine.sampling.host import HostLoop
from ..engine.sampling.mask_first import MaskFirstModel
from ..engine.sampling.types import RunComponent, SampleRequest, SamplingOptions, Volume
from .arguments import mask_first_bundle, mask_first_parser
from .gpu_proof import proof_requests
from .quality import dice

MANY = SamplingDefaults("ddim", 250, 0.0, 1.0)
USUAL = [SamplingDefaults("ddim", steps, 0.0, 1.0) for steps in (20, 10, 5)] + [
    SamplingDefaults("dpmpp-2m", steps, 0.0, 1.0) for steps in (20, 10, 8, 6, 5, 4)
]
SHAPE = ("w", "h", "d", "surface_cm2", "sphericity")
FINE_PIXELS = 1.5

Label = NDArray[np.uint8]
Tell = Callable[[str], None]


class FewSteps:
    """The first samples of a run of a mask-first bundle, by any sampling of either stage."""

    def __init__(self, bundle: Bundle, form: MaskFirst, count: int, run: RunComponent) -> None:
        self._bundle, self._run = bundle, run
        self._model = MaskFirstModel.of(bundle.manifest, form)
        self._requests = proof_requests(bundle, count)
        self._columns = [column.name for column in bundle.manifest.condition_columns]

    def masks(self, sampling: SamplingDefaults) -> list[Label]:
        """Labels (x, y, z) of the samples."""
        model = replace(self._model, form=replace(self._model.form, mask_sampling=sampling))
        loop = HostLoop(model, self._run, SamplingOptions.default(MANY))
        found = [model.labels(self._run, loop.batch([request]), None)[0] for request in self._requests]
        sound = [label for label in found if label is not None]
        if len(sound) < len(found):
            raise InvalidInputError(f"{sampling.sampler}, {sampling.steps} steps: maps of a mask are not finite")
        return sound

    def images(self, sampling: SamplingDefaults, labels: Sequence[Label]) -> list[Volume]:
        """Volumes of the samples around given masks."""
        loop = HostLoop(self._model, self._run, SamplingOptions.default(sampling))
        return [
            loop.start([replace(request, label=label)])()[0]
            for request, label in zip(self._requests, labels, strict=True)
        ]

    def mask_row(self, name: str, labels: Sequence[Label], many: Sequence[Label]) -> str:
        """A row of the table of masks."""
        tissues = range(1, len(self._bundle.manifest.labels))
        dices = [statistics.median(dice(a == k, b == k) for a, b in zip(labels, many, strict=True)) for k in tissues]
        errors = [
            np.mean([self._miss(request, label, column) for request, label in zip(self._requests, labels, strict=True)])
            for column in SHAPE
        ]
        return f"| {name} | {' '.join(f'{d:.3f}' for d in dices)} | {' '.join(f'{e:.3f}' for e in errors)} |"

    def _miss(self, request: SampleRequest, label: Label, column: str) -> float:
        measured = getattr(measure_tumour(label, self._bundle.manifest.grid.spacing_mm), column)
        wanted = request.wanted[self._columns.index(column)]
        return abs(float(measured / wanted) - 1)


def image_row(name: str, volumes: Sequence[Volume], many: Sequence[Volume]) -> str:
    """A row of the table of images."""
    psnr, fine = [], []
    for volume, wanted in zip(volumes, many, strict=True):
        brain = wanted.image[0] > 0
        error = np.mean((volume.image.astype(np.float64) - wanted.image)[:, brain] ** 2)
        psnr.append(10 * np.log10(INT16_SCALE**2 / max(float(error), 1e-12)))
        fine.append(_fine(volume)[:, brain].std(axis=1) / _fine(wanted)[:, brain].std(axis=1))
    return f"| {name} | {statistics.median(psnr):.1f} dB | {' '.join(f'{f:.3f}' for f in np.mean(fine, axis=0))} |"


def _fine(volume: Volume) -> NDArray[np.float32]:
    image = volume.image.astype(np.float32)
    return np.asarray(image - gaussian_filter(image, (0, FINE_PIXELS, FINE_PIXELS, 0)), np.float32)


def tables(bundle: Bundle, form: MaskFirst, count: int, run: RunComponent, tell: Tell) -> None:
    """Tells both tables, row by row."""
    few = FewSteps(bundle, form, count, run)
    masks = few.masks(MANY)
    tell("| masks | Dice of the tissues with 250 steps | error of w, h, d, surface, sphericity |\n| --- | --- | --- |")
    tell(few.mask_row(_name(MANY), masks, masks))
    for sampling in (*USUAL, *_fitted(form.fitted)):
        tell(few.mask_row(_name(sampling), few.masks(sampling), masks))
    images = few.images(MANY, masks)
    tell("\n| images | PSNR in the brain to 250 steps | fine structure over theirs |\n| --- | --- | --- |")
    for sampling in (*USUAL, *_fitted(bundle.manifest.schedule.fitted)):
        tell(image_row(_name(sampling), few.images(sampling, masks), images))


def _fitted(fitted: Sequence[FittedSteps]) -> list[SamplingDefaults]:
    return [SamplingDefaults("fitted", steps, 0.0, 1.0) for steps in reversed(fitted_numbers(fitted))]


def _name(sampling: SamplingDefaults) -> str:
    return f"{sampling.sampler} {sampling.steps}"


def main(arguments: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = mask_first_parser(__doc__, 12)
    given = parser.parse_args(arguments)
    bundle, form = mask_first_bundle(parser, given.bundle)
    run = OnnxRuntimeBackend(bundle, "cpu", available_threads()).run
    tables(bundle, form, given.count, run, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())

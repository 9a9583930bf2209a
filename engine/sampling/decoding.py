"""From slice latents to a finished volume, and from a case to its latent: the same for every loop.

`run` computes a component of the bundle: a backend's method, or PyTorch modules behind the same call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...kernels.assemble import assemble, one_hot
from ...kernels.statistics import image_statistics
from .small_components import drop_outside_brain, drop_small_components
from .types import RunComponent, SampleRequest, Volume

DECODER_SLICES = 16  # slices a decoder call; the time per slice is flat from 1 to 16 on a CPU
SATURATED_SHARE = 0.5  # of the foreground at the largest value: no image
NOT_FINITE = "the networks returned values that are not finite"


@dataclass(frozen=True)
class DecodedSlices:
    """The slices of one volume as the networks give them."""

    coarse: NDArray[np.float32]  # (D, M, X, Y), the decoder's image held within -1..1: what the refiner reads
    image: NDArray[np.float32]  # (D, M, X, Y), the refiner's; without a refiner the decoder's
    label_logits: NDArray[np.float32]  # (D, L, X, Y)

    @property
    def finite(self) -> bool:
        """Whether image and logits are."""
        return bool(np.isfinite(self.image).all() and np.isfinite(self.label_logits).all())


def decode_slices(
    run: RunComponent, slices: NDArray[np.float32], *, refined: bool, at_once: int = DECODER_SLICES
) -> DecodedSlices:
    """Slice latents (D, c, h, w) of one volume through the decoder, `at_once` a call, and the refiner if `refined`."""
    position = np.arange(len(slices), dtype=np.int64)
    parts = [
        run("decoder", {"latent": slices[at : at + at_once], "position": position[at : at + at_once]})
        for at in range(0, len(slices), at_once)
    ]
    image = np.concatenate([part["image"] for part in parts])
    logits = np.concatenate([part["label_logits"] for part in parts])
    coarse = np.clip(image, -1.0, 1.0)
    if refined:
        image = run("refiner", {"image": coarse[None], "label": one_hot(logits)[None]})["refined"][0]
    return DecodedSlices(coarse, image, logits)


def assemble_volume(request: SampleRequest, decoded: DecodedSlices, finite: bool, threshold: float) -> Volume:
    """The volume of decoded slices; `finite`: their latent was."""
    images, labels = assemble(decoded.image, decoded.label_logits, len(decoded.image), threshold)
    return finish_volume(request, images[0], labels[0], image_statistics(images[0]), finite and decoded.finite)


def finish_volume(
    request: SampleRequest,
    image: NDArray[np.int16],
    label: NDArray[np.uint8],
    statistics: NDArray[np.integer],
    finite: bool,
) -> Volume:
    """A volume without small components of the tumour and of the brain, and with its fault if it has one.

    Image (M, X, Y, Z) with its `image_statistics`, label (X, Y, Z).
    """
    fault = image_fault(statistics) if finite else NOT_FINITE
    label = drop_small_components(label)
    return Volume(request.number, request.attempt, drop_outside_brain(image, label), label, fault)


def image_fault(statistics: NDArray[np.integer]) -> str | None:
    """Why an image of these `image_statistics` (M, 4) is none: blank, or saturated in some modality; None if good."""
    for number, (foreground, least, most, brightest) in enumerate(statistics.tolist()):
        if foreground == 0 or least == most:
            return f"modality {number} is blank"
        if brightest > SATURATED_SHARE * foreground:
            return f"modality {number} is saturated"
    return None


def encode_slices(run: RunComponent, image: NDArray[np.float32], label: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices (D, M, X, Y) in -1..1 and their one-hot labels (D, L, X, Y) -> slice latents (D, c, h, w)."""
    position = np.arange(len(image), dtype=np.int64)
    spans = [slice(at, at + DECODER_SLICES) for at in range(0, len(image), DECODER_SLICES)]
    parts = [run("encoder", {"image": image[at], "label": label[at], "position": position[at]}) for at in spans]
    return np.concatenate([part["latent"] for part in parts])


def encode_volume(run: RunComponent, image: NDArray[np.float32], label: NDArray[np.float32]) -> NDArray[np.float32]:
    """The clean volume latent Z (C, ...) of a case; arguments as `encode_slices`."""
    return run("aggregator_encode", {"slices": encode_slices(run, image, label)[None]})["latent"][0]

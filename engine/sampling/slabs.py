"""Slabs of neighbouring slices to a finished volume whose mask is given, and a case's slices to slabs.

A slab's channels are slice by slice its modalities: channel = slice in slab * modalities + modality.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...kernels.statistics import image_statistics
from ..blocks import bounding_box
from ..bundle.manifest import INT16_SCALE
from .decoding import NOT_FINITE, image_fault
from .types import RunComponent, SampleRequest, Volume

SLABS_AT_ONCE = 4  # a decoder or encoder call
DARKEST = round(INT16_SCALE / 255)  # written value of the darkest voxel of a brain


def decode_slabs(
    run: RunComponent, features: NDArray[np.float32], modalities: int, at_once: int = SLABS_AT_ONCE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (S, F, h, w) of one volume -> image (D, M, X, Y) in about -1..1 and the brain's logits (D, X, Y)."""
    parts = [run("decoder", {"features": features[at : at + at_once]}) for at in range(0, len(features), at_once)]
    image = np.concatenate([part["image"] for part in parts])
    brain = np.concatenate([part["brain"] for part in parts])
    return image.reshape(-1, modalities, *image.shape[2:]), brain.reshape(-1, *brain.shape[2:])


def refine_slices(run: RunComponent, planes: NDArray[np.float32], draft: NDArray[np.float32]) -> NDArray[np.float32]:
    """A decoded image (D, M, X, Y) with the edges of its draft, which the latent has no room for."""
    told = {"image": np.clip(planes, -1.0, 1.0)[None], "draft": draft[None]}
    return run("refiner", told)["refined"][0]


class Decoded:
    """The image of one latent, decoded where it is looked at: `SLABS_AT_ONCE` slabs a time, all where it is refined.

    Threads may share it.
    """

    def __init__(
        self,
        run: RunComponent,
        latent: NDArray[np.float32],
        shape: tuple[int, ...],
        draft: NDArray[np.float32] | None,
    ) -> None:
        """Of a latent (C, slab, h, w), the image's shape (M, x, y, z) and the draft (D, M, x, y) that refines it."""
        self._run, self._latent, self._draft = run, latent, draft
        self._image, self._done = np.zeros(shape, np.float32), set[int]()
        self._turn = Lock()

    def over(self, planes: Iterable[int]) -> NDArray[np.float32]:
        """(M, x, y, z) in 0..1, decoded over at least these planes across z, 0 where it never was; read-only."""
        with self._turn:
            if self._draft is not None:
                return self._refined
            depth = self._image.shape[3] // len(self._features)  # of a slab
            for part in sorted({plane // (depth * SLABS_AT_ONCE) for plane in planes} - self._done):
                slabs = slice(part * SLABS_AT_ONCE, (part + 1) * SLABS_AT_ONCE)
                image, _ = decode_slabs(self._run, self._features[slabs], len(self._image))
                at = slice(slabs.start * depth, slabs.start * depth + len(image))
                self._image[..., at] = np.clip(unit_image(image), 0, 1)
                self._done.add(part)
            return self._image

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        return self._run("aggregator", {"latent": self._latent[None]})["features"][0]

    @cached_property
    def _refined(self) -> NDArray[np.float32]:
        assert self._draft is not None
        planes, _ = decode_slabs(self._run, self._features, len(self._image))
        return np.clip(unit_image(refine_slices(self._run, planes, self._draft)), 0, 1)


def encode_slabs(run: RunComponent, image: NDArray[np.float32], slices: int) -> NDArray[np.float32]:
    """Slices (D, M, X, Y) in -1..1 -> features (S, F, h, w) of slabs of so many slices."""
    slabs = image.reshape(len(image) // slices, -1, *image.shape[2:])
    spans = [slice(at, at + SLABS_AT_ONCE) for at in range(0, len(slabs), SLABS_AT_ONCE)]
    return np.concatenate([run("encoder", {"image": slabs[at]})["features"] for at in spans])


def unit_image(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices (D, M, X, Y) in -1..1 -> image (M, X, Y, Z) in 0..1."""
    by_modality = planes.transpose(1, 2, 3, 0)
    image = np.empty(by_modality.shape, np.float32)  # in its own order: what follows goes through it along z
    np.add(by_modality, np.float32(1), out=image)
    image *= np.float32(0.5)
    return image


def masked_volume(
    request: SampleRequest,
    image: NDArray[np.float32],
    brain: NDArray[np.float32],
    label: NDArray[np.uint8],
    fault: str | None,
    inside: NDArray[np.bool_] | None = None,
) -> Volume:
    """The volume of an image (M, X, Y, Z) in 0..1, the brain's logits (D, X, Y) and a label (X, Y, Z), which stays.

    A voxel of the brain is round(1000 v), half to even, held within `DARKEST`..1000; all others are 0.
    `fault` is what is wrong already; `inside` is `brain_of` the two, where that is known.
    """
    if not (np.isfinite(image).all() and np.isfinite(brain).all()):
        fault = fault or NOT_FINITE
    if inside is None:
        inside = brain_of(brain.transpose(1, 2, 0) > 0, label)
    x, y, z = bounding_box(inside)
    values = image[:, x, y, z] * np.float32(INT16_SCALE)
    np.rint(values, out=values)
    np.nan_to_num(values, copy=False, nan=0.0)
    np.clip(values, DARKEST, INT16_SCALE, out=values)
    voxels = np.zeros(image.shape, np.int16)
    voxels[:, x, y, z] = values.astype(np.int16) * inside[x, y, z]
    found = image_fault(image_statistics(voxels[:, x, y, z]))
    return Volume(request.number, request.attempt, voxels, label, fault or found)


def brain_of(likely: NDArray[np.bool_], label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The largest face-connected piece of what is likely brain or labelled, its holes filled; both (X, Y, Z)."""
    likely = likely | (label > 0)
    found = np.zeros(label.shape, bool)
    box = bounding_box(likely)
    pieces, number = ndimage.label(likely[box])  # pyright: ignore[reportGeneralTypeIssues]
    if number == 0:
        return found
    brain = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    outside, _ = ndimage.label(np.pad(~brain, 1, constant_values=True))  # pyright: ignore[reportGeneralTypeIssues]
    found[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return found

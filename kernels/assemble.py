"""Decoder output to finished volumes: de-normalise, argmax, background, transpose (reference of `assemble.cu`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INT16_SCALE = 1000  # written value of the brightest normalised intensity


def assemble(
    image: NDArray[np.floating], label_logits: NDArray[np.floating], depth: int, threshold: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """(images (N, M, X, Y, Z) int16, labels (N, X, Y, Z) uint8) of S = N * depth slices.

    `image` (S, M, X, Y) in -1..1, `label_logits` (S, L, X, Y). A voxel is round(1000 (v + 1) / 2), half to even, held
    within 0..1000; the label is the first largest logit. Where the label is 0 and no modality's (v + 1) / 2 reaches
    `threshold`, all modalities are 0. NaN in the image gives 0. ValueError where the shapes do not fit.
    """
    slices, modalities, x, y = image.shape
    if label_logits.shape[:1] + label_logits.shape[2:] != (slices, x, y) or slices % depth:
        raise ValueError(f"image {image.shape} and label logits {label_logits.shape} are not volumes of {depth} slices")
    labels = np.argmax(label_logits, axis=1).astype(np.uint8)
    background = is_background(image, labels, threshold)
    values = image.astype(np.float32)
    values += np.float32(1.0)
    values *= np.float32(INT16_SCALE / 2)
    np.rint(values, out=values)
    np.nan_to_num(values, copy=False, nan=0.0)
    np.clip(values, 0.0, INT16_SCALE, out=values)
    voxels = values.astype(np.int16)
    voxels *= ~background[:, None]
    images = voxels.reshape(-1, depth, modalities, x, y).transpose(0, 2, 3, 4, 1)
    return np.ascontiguousarray(images), np.ascontiguousarray(labels.reshape(-1, depth, x, y).transpose(0, 2, 3, 1))


def is_background(image: NDArray[np.floating], label: NDArray[np.integer], threshold: float) -> NDArray[np.bool_]:
    """(S, X, Y): where `label` is 0 and no modality of `image` (S, M, X, Y) in -1..1 reaches `threshold` (0..1)."""
    brightest = image.astype(np.float32, copy=False).max(axis=1)
    return (label == 0) & ((brightest + np.float32(1.0)) * np.float32(0.5) < np.float32(threshold))


def one_hot(label_logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """(S, L, X, Y) float32: 1 at the first largest logit of each voxel, 0 elsewhere; what the refiner reads."""
    return one_hot_labels(np.argmax(label_logits, axis=1), label_logits.shape[1])


def one_hot_labels(label: NDArray[np.integer], classes: int) -> NDArray[np.float32]:
    """Labels (S, X, Y) -> (S, classes, X, Y) float32; all 0 where a label is `classes` or more."""
    return (label[:, None] == np.arange(classes)[None, :, None, None]).astype(np.float32)

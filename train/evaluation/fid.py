"""Fréchet distance of slice features, by a feature network that the user gives as ONNX."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...engine.errors import InvalidInputError
from ..data.cohort import Cohort
from .volumes import brain_of

log = logging.getLogger(__name__)

SLICES_PER_CASE = 8
NO_NETWORK = "not computed: no feature network was given (--fid-network FILE.onnx)"


class FeatureNetwork:
    """An ONNX graph with one image input (N, 3, height, width) and one output of features (N, F) or (N, F, 1, 1)."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.name = path.name
        if not path.is_file():
            raise InvalidInputError(f"{path}: no such file; --fid-network takes an ONNX file")
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InvalidInputError(f"{path}: ONNX Runtime cannot load it ({error})") from error
        image = self._session.get_inputs()[0]
        if len(image.shape) != 4 or image.shape[1] != 3:
            raise InvalidInputError(
                f"{path}: its input is {image.shape}; a feature network takes (N, 3, height, width)"
            )
        self._input = image.name
        self._size = tuple(n if isinstance(n, int) else None for n in image.shape[2:])

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, x, y) in 0..1 -> features (N, F); resized to the network's own size if it has one."""
        wanted = [size or own for size, own in zip(self._size, images.shape[1:], strict=True)]
        zoom = (1.0, *(size / own for size, own in zip(wanted, images.shape[1:], strict=True)))
        resized = np.asarray(ndimage.zoom(images, zoom, order=1), np.float32) if any(z != 1 for z in zoom) else images
        (output,) = self._session.run(None, {self._input: np.repeat(resized[:, None], 3, axis=1)})[:1]
        found = np.asarray(output, np.float32)
        return found.reshape(*found.shape[:2], -1).mean(axis=2)


def frechet_distance(real: Cohort, synthetic: Cohort, network: FeatureNetwork) -> dict[str, Any]:
    """FID of axial slices spread over the brain: `distance` a modality, `images` of each side and `features`.

    `distance` is None, with the `reason`, where a side has fewer images than there are features: its covariance is
    singular then and the figure follows the number of cases more than what they show.
    """
    sides = [
        [_features(cohort, number, network) for number in range(len(real.modalities))] for cohort in (real, synthetic)
    ]
    images, features = [len(side[0]) for side in sides], sides[0][0].shape[1]
    figures: dict[str, Any] = {"images": images, "features": features, "distance": None}
    if min(images) <= features:
        figures["reason"] = f"not computed: {min(images)} images for {features} features, more are needed"
        log.warning("FID %s", figures["reason"])
        return figures
    pairs = zip(real.modalities, *sides, strict=True)
    return figures | {"distance": {modality: gaussian_distance(one, other) for modality, one, other in pairs}}


def case_features(cohort: Cohort, network: FeatureNetwork) -> NDArray[np.float64]:
    """(cases, modalities x features): the features of a case's slices, averaged, one modality after the other."""
    found = [_features(cohort, number, network) for number in range(len(cohort.modalities))]
    means = [each.reshape(len(cohort), SLICES_PER_CASE, -1).mean(axis=1, dtype=np.float64) for each in found]
    return np.concatenate(means, axis=1)


def gaussian_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Squared Fréchet distance of Gaussians fitted to two sets of features (N, F); Dowson and Landau 1982.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); the trace of the root by the eigenvalues of S1 S2.
    """
    means = [features.mean(axis=0, dtype=np.float64) for features in (first, second)]
    spreads = [np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False)) for features in (first, second)]
    root_trace = np.sqrt(np.maximum(np.linalg.eigvals(spreads[0] @ spreads[1]).real, 0)).sum()
    apart = np.square(means[0] - means[1]).sum()
    return float(apart + np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * root_trace)


def _features(cohort: Cohort, modality: int, network: FeatureNetwork) -> NDArray[np.float32]:
    found = []
    for case in cohort.cases:
        slices = np.asarray(cohort.slices(case))
        inside = np.flatnonzero(brain_of(slices).any(axis=(1, 2)))
        at = inside[np.linspace(0, len(inside) - 1, SLICES_PER_CASE + 2).round().astype(int)[1:-1]]
        found.append(network.features(slices[at, modality].astype(np.float32) / np.float32(255)))
    return np.concatenate(found)

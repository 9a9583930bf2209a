"""Fréchet distance of slice features, by a feature network that the user gives as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics.fid import FIDMetric
from numpy.typing import NDArray
from scipy import ndimage

from ...engine.errors import InvalidInputError
from ..data.cohort import Cohort
from .volumes import brain_of

SLICES_PER_CASE = 8
NO_NETWORK = "not computed: no feature network was given (--fid-network FILE.onnx)"


class FeatureNetwork:
    """An ONNX graph with one image input (N, 3, height, width) and one output of features (N, F) or (N, F, 1, 1)."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

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
    """FID (MONAI) of axial slices spread over the brain, a modality."""
    distances: dict[str, Any] = {}
    for number, modality in enumerate(real.modalities):
        pair = [torch.from_numpy(_features(cohort, number, network)) for cohort in (synthetic, real)]
        distances[modality] = float(FIDMetric()(*pair))
    return distances


def _features(cohort: Cohort, modality: int, network: FeatureNetwork) -> NDArray[np.float32]:
    found = []
    for case in cohort.cases:
        slices = np.asarray(cohort.slices(case))
        inside = np.flatnonzero(brain_of(slices).any(axis=(1, 2)))
        at = inside[np.linspace(0, len(inside) - 1, SLICES_PER_CASE + 2).round().astype(int)[1:-1]]
        found.append(network.features(slices[at, modality].astype(np.float32) / np.float32(255)))
    return np.concatenate(found)

"""Stage `refiner` of the mask-first form: samples get the edges of their drafts, as scans have them.

What is to come out has the sample's own signal where it is coarse and the scan's structure where it is fine: contrast
is the denoiser's to make and must not be drawn back to the scan's. In the tumour it is the scan as it is, so that
tissues look like what the mask calls them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from numpy.typing import NDArray
from torch import Tensor, nn

from ...engine.scans.prepare import to_unit
from ..data.cohort import Cohort
from ..drafted_samples import DraftedSamples
from ..prefetch import DrawnAhead, to_device
from .refiner import DETAIL_WEIGHT, GRADIENT_WEIGHT, REFINER_SLICES, detail_strength
from .slice_autoencoder import gradient_loss

PLANE = 96  # pixels of a training crop along x and y, at most
TUMOUR_SHARE = 0.4  # of the crops that lie about a tumour voxel
OUTSIDE = 0.1  # weight of what lies outside the brain
COARSE_PIXELS = 3.0  # deviation of the Gaussian that parts coarse from fine
TRUNCATED = 2.7  # deviations after which Gaussians end
EDGE_PIXELS = 1.0  # deviation of the Gaussian that the tumour's edge is softened with
FAINT = -0.97  # where no modality of a sample is brighter, it has no brain


class VolumeRefinerObjective:
    """Crops of samples and their drafts, refined towards the scans' structure."""

    def __init__(self, cohort: Cohort, samples: DraftedSamples, batch_size: int) -> None:
        self.cohort, self.samples, self.batch_size = cohort, samples, batch_size
        self._ahead = DrawnAhead(self._crops)

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        weight = next(module.parameters())
        device = weight.device
        coarse, draft, scan, tumour = (to_device(part, device) for part in self._ahead(self.batch_size, generator))
        refined = module(coarse.to(weight.dtype), draft.to(weight.dtype)).float().flatten(0, 1)
        with torch.autocast(device.type, enabled=False):
            coarse, scan = coarse.flatten(0, 1), scan.flatten(0, 1)
            brain = brain_of_both(coarse, scan)
            wanted = with_coarse_of(coarse, scan, brain, tumour.flatten(0, 1))
            terms = {
                "l1": ((OUTSIDE + (1 - OUTSIDE) * brain) * (refined - wanted).abs()).mean(),
                "gradient": GRADIENT_WEIGHT * gradient_loss(refined * brain, wanted * brain),
                "detail": DETAIL_WEIGHT * F.l1_loss(detail_strength(refined * brain), detail_strength(wanted * brain)),
            }
            before = (brain * (coarse - wanted).abs()).sum() / (brain * (refined - wanted).abs()).sum().clamp(min=1e-6)
        return torch.stack(list(terms.values())).sum(), {**terms, "error_before_over_after": before.detach()}

    def _crops(self, size: int, generator: np.random.Generator) -> tuple[Tensor, ...]:
        """Samples, drafts, scans (N, D, M, X, Y) in -1..1 and tumours (N, D, 1, X, Y), half of them mirrored."""
        crops = [self._crop(generator) for _ in range(size)]
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*crops, strict=True))

    def _crop(self, generator: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
        number = int(generator.integers(len(self.samples.cases)))
        case = self.samples.cases[number]
        scan, tumour = self.cohort.slices(case), self.cohort.label(case) > 0
        about = tumour if generator.random() < TUMOUR_SHARE and tumour.any() else np.any(scan, axis=1)
        voxels = np.flatnonzero(about)
        centre = np.unravel_index(voxels[generator.integers(len(voxels))], about.shape)
        box = []
        for place, length, side in zip(centre, (REFINER_SLICES, PLANE, PLANE), about.shape, strict=True):
            length = min(length, side)
            start = int(place) - length // 2 + int(generator.integers(-(length // 4), length // 4 + 1))
            box.append(slice(min(max(start, 0), side - length), min(max(start, 0), side - length) + length))
        planes, *plane = box
        step = -1 if generator.random() < 0.5 else 1
        images = (self.samples.coarse[number], self.samples.drafts[number], scan)
        cut = (planes, slice(None), *plane)
        mask = tumour[:, None][cut][:, :, ::step].astype(np.float32)
        return *(to_unit(image[cut][:, :, ::step]) for image in images), mask


def brain_of_both(coarse: Tensor, scan: Tensor) -> Tensor:
    """(S, 1, X, Y): 1 where both have brain."""
    return ((coarse > FAINT).any(dim=1, keepdim=True) & (scan > -1).any(dim=1, keepdim=True)).float()


def with_coarse_of(coarse: Tensor, scan: Tensor, brain: Tensor, tumour: Tensor) -> Tensor:
    """A scan (S, M, X, Y) whose coarse signal in the healthy brain is that of another image; masks are (S, 1, X, Y)."""
    shift = smoothed_within(coarse, brain) - smoothed_within(scan, brain)
    return (scan + shift * brain * (1 - _gaussian(tumour, EDGE_PIXELS))).clamp(-1.0, 1.0)


def smoothed_within(image: Tensor, mask: Tensor, pixels: float = COARSE_PIXELS) -> Tensor:
    """Gaussian mean in plane over the mask alone (Knutsson and Westin 1993, normalised convolution)."""
    return _gaussian(image * mask, pixels) / _gaussian(mask, pixels).clamp(min=0.05)


def _gaussian(image: Tensor, pixels: float) -> Tensor:
    return separable_filtering(image, [gaussian_1d(torch.tensor(pixels), truncated=TRUNCATED)] * 2, mode="replicate")

"""What samples say without any real case: anatomy, variety, and image against mask by the segmenter that ships."""

from __future__ import annotations

import logging
from typing import Any

from ...engine.bundle.load import Bundle
from ..data.cohort import Cohort
from .agreement import agreements, by_volume, compared, volume_of
from .diversity import ms_ssim_diversity
from .fid import NO_NETWORK
from .fidelity import anatomy, describe_cohort
from .phantom_segmenter import NAME, PhantomSegmenter, misfit

WITHOUT_REAL = "no --real DIR was given"
NEEDING_REAL = ("distribution", "texture", "coherence", "intensities", "characteristics", "memorisation")

log = logging.getLogger(__name__)


def samples_alone(samples: Cohort, bundle: Bundle | None, pairs: int, workers: int) -> dict[str, Any]:
    """Figures of samples, the other side of each left empty; what needs real cases is under `not_measured`.

    Args:
        samples: prepared.
        bundle: that made them, where it is known.
        pairs: of samples, for MS-SSIM.
        workers: processes.
    """
    description = describe_cohort(samples, workers)
    nothing = {name: values[:0] for name, values in description.items()}
    figures: dict[str, Any] = {
        "anatomy": anatomy(nothing, description),
        "ms_ssim": {"real": None, "synthetic": ms_ssim_diversity(samples, pairs)},
        "fid": NO_NETWORK,
        "not_measured": dict.fromkeys(NEEDING_REAL, WITHOUT_REAL),
    }
    why = _unknown(samples, bundle)
    if why is not None:
        figures["not_measured"]["agreement of image and mask"] = f"{why}; give --real DIR"
        return figures
    log.info("agreement of image and mask by the %s", NAME)
    segmenter = PhantomSegmenter()
    found = [segmenter.segment(volume_of(samples, case)[0]) for case in range(len(samples))]
    own, swapped = agreements(samples, found)
    figures["agreement"] = {
        "segmenter": f"{NAME}; the real cases beside the samples are phantoms on anatomies that it was not trained on",
        "fitted": segmenter.trained_on,
        **compared(segmenter.dice, own, swapped),
    }
    figures["consistency"] = by_volume(samples, own)
    return figures


def _unknown(samples: Cohort, bundle: Bundle | None) -> str | None:
    """Why the segmenter that ships cannot judge these samples."""
    said = None if bundle is None else bundle.manifest.mask_first
    if said is not None and said.source > 0:
        return f"the {NAME} knows no real scans, as which they were drawn"
    return misfit(samples.grid, samples.modalities)

"""The options of a run that fix its bytes, with the bundle's defaults filled in; `options` of run.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, get_args

from ..bundle.manifest import BundleManifest, SamplerName
from ..output.case_tags import NameBy
from ..output.layouts import LayoutName, Names

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
RunGrid = Literal["native", "brats", "dataset", "source"]  # `case_files.GridName`; of --add-to, or of augment's case
MAX_STEPS = 65535  # draws of one attempt, less the initial one
MAX_BATCH = 4096
MAX_COUNT = 10**12  # samples of a run


@dataclass(frozen=True)
class RunOptions:
    """Together with bundle, conditions and `Resolved` it fixes every byte of a run; `GenerateRequest.options` makes it.

    Ranges and checks: the fields of the same names of `GenerateRequest`.
    """

    count: int
    seed: int
    steps: int
    sampler: SamplerName
    eta: float
    guidance: float
    layout: LayoutName
    names: Names
    name_by: NameBy
    grid: RunGrid
    rtstruct: bool
    reject: float | None  # tolerance; None keeps every tumour
    attempts: int  # redraws at most, with reject

    def accepts(self, miss: float) -> bool:
        """Whether a tumour that misses its request by this much (`writer.miss`) is within the tolerance."""
        return self.reject is None or miss <= self.reject

    def recipe(self, bundle_sha256: str, source: object) -> str:
        """The sha256 of all that fixes sample k but k and its conditions; DICOM UIDs follow from it.

        `source` is the digest of what sampling starts from.
        """
        how = (self.seed, self.steps, self.sampler, self.eta, self.guidance, self.reject, self.attempts)
        text = json.dumps(
            [bundle_sha256, None if source is None else repr(source), *how], separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(text.encode()).hexdigest()


def most_steps(manifest: BundleManifest) -> int:
    """The most denoising steps that a bundle's schedule has times for."""
    return min(len(manifest.schedule.alphas_cumprod), MAX_STEPS)

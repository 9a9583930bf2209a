"""The options of a run that fix its bytes, with the bundle's defaults filled in; `options` of run.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, get_args

from ..bundle.fitted import fitted_numbers
from ..bundle.manifest import BundleManifest, SamplerName, SamplingDefaults
from ..output.case_tags import NameBy
from ..output.layouts import LayoutName, Names

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
RunGrid = Literal["native", "brats", "dataset", "source"]  # `case_files.GridName`; of --add-to, or of augment's case
MAX_STEPS = 65535  # draws of one attempt, less the initial one
MAX_BATCH = 4096
MAX_COUNT = 10**12  # samples of a run
UNFITTED = SamplingDefaults("ddim", 10, 0.0, 1.0)
"""What a bundle whose default are fitted steps does where these do not go."""


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


def asked_sampling(
    manifest: BundleManifest,
    *,
    sampler: SamplerName | None = None,
    steps: int | None = None,
    eta: float | None = None,
    guidance: float | None = None,
    from_case: bool = False,
) -> SamplingDefaults:
    """The sampling that is meant: what is None as the bundle has it.

    Fitted steps are for noise alone, there is a number of them, and they know neither guidance nor eta: where they are
    the bundle's and something else is asked, the rest is `UNFITTED`.
    """
    usual, numbers = manifest.defaults, fitted_numbers(manifest.schedule.fitted)
    fits = sampler in (None, "fitted") and not eta and guidance in (None, 1) and steps in (None, *numbers)
    if usual.sampler == "fitted" and (from_case or not fits):
        usual = UNFITTED
    return SamplingDefaults(
        sampler or usual.sampler,
        usual.steps if steps is None else steps,
        usual.eta if eta is None else eta,
        usual.guidance if guidance is None else guidance,
    )


def most_steps(manifest: BundleManifest) -> int:
    """The most denoising steps that a bundle's schedule has times for."""
    return min(len(manifest.schedule.alphas_cumprod), MAX_STEPS)

"""Samples around training cases' own masks, on their own anatomy: what the refiner learns to sharpen.

Each begins from the case's latent, noised fully or in part, so that some have the scan's contrast and some have their
own, as far from the scan as samples are from any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from numpy.typing import NDArray
from scipy import ndimage

from ..engine.bundle.manifest import NoiseSchedule
from ..engine.conditions.columns import COLUMNS
from ..engine.sampling.host import HostLoop
from ..engine.sampling.plan import sampling_plan
from ..engine.sampling.slabs import decode_slabs
from ..engine.sampling.types import RunComponent, SampleRequest, SamplingOptions
from ..engine.scans.prepare import LEVELS, to_unit
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.draws import chances, real_cases
from .drafts import DraftLevels, case_label, case_shares
from .shared_store import filled
from .volume_model import volume_model

FOLDER = "samples"
SAMPLES_VERSION = 1  # raise it when the same networks and cases give other samples
MOST_CASES = 256  # that samples are made of
STRENGTHS = (1.0, 1.0, 0.8, 0.6, 0.4)  # share of the sampler's steps that a sample takes
SOFTNESS_MM = (0.9, 0.9, 1.0)  # of every second draft's tissues: those of drawn brains are softer than scans'

Images = NDArray[np.uint8]  # (samples, z, modality, x, y), as stored


@dataclass(frozen=True)
class DraftedSamples:
    """Samples of cases, and the drafts that they were made on."""

    cases: tuple[int, ...]
    coarse: Images
    drafts: Images


def drafted_cases(cohort: Cohort) -> tuple[int, ...]:
    """The cases that samples are made of, drawn as training draws cases, each once."""
    weights = chances(cohort)
    count = min(MOST_CASES, np.count_nonzero(weights))
    return tuple(sorted(np.random.default_rng(0).choice(len(cohort), count, replace=False, p=weights).tolist()))


@dataclass(frozen=True)
class SampleMaker:
    """What samples of cases are made by and of."""

    run: RunComponent  # computes encoder, aggregator, denoiser and decoder
    cohort: Cohort
    config: MaskFirstConfig
    schedule: NoiseSchedule
    levels: DraftLevels

    def made(self, number: int, case: int) -> tuple[Images, Images]:
        """The decoded sample of a case, and its draft, each (z, modality, x, y)."""
        config, cohort = self.config, self.cohort
        label, shares = case_label(cohort, case), case_shares(cohort, case)
        if number % 2:
            sigma = [mm / side for mm, side in zip(SOFTNESS_MM, config.grid.spacing_mm, strict=True)]
            shares = np.asarray(ndimage.gaussian_filter(shares, (0, *sigma)) * shares.any(axis=0), np.float32)
        model = volume_model(config, self.schedule, float(real_cases(cohort)[case]), self.levels)
        loop = HostLoop(model, self.run, SamplingOptions.default(config.sampling))
        batch = loop.batch([SampleRequest(number, 0, np.zeros(len(COLUMNS), np.float32), label=label, shares=shares)])
        told = model.tell(self.run, batch, None)
        assert told.drafts is not None
        taken = max(1, round(STRENGTHS[number % len(STRENGTHS)] * config.sampling.steps))
        plan = sampling_plan(self.schedule, loop.options, config.sampling.steps - taken)
        signal, noise = plan.start
        clean = model.encode(self.run, to_unit(cohort.slices(case)))
        state = (signal * clean[None] + noise * batch.noise(model.latent_shape, 0)).astype(np.float32)
        features = self.run("aggregator", {"latent": loop.denoise(batch, told, state, plan)})["features"][0]
        planes, _ = decode_slabs(self.run, features, len(config.modalities))
        return _stored(planes), _stored(told.drafts[0])


def drafted_samples(
    maker: SampleMaker,
    directory: Path,
    networks: Mapping[str, str],
    fabric: Fabric,
    progress: Callable[[int, int], None],
) -> DraftedSamples:
    """Samples of some cases of a cohort, or what the same networks made of the same cases before.

    Args:
        maker: of the samples.
        directory: of the training.
        networks: stage -> SHA-256 of its weights.
        fabric: of the processes, all of which have to call this.
        progress: told the samples made and all of this process.
    """
    cohort, config = maker.cohort, maker.config
    folder, cases = directory / FOLDER, drafted_cases(cohort)
    folder.mkdir(exist_ok=True)
    key = {
        "networks": dict(networks),
        "cases": [cohort.entries[case].path.name for case in cases],
        "steps": config.sampling.steps,
        "levels": [list(row) for row in maker.levels],
        "version": SAMPLES_VERSION,
    }
    x, y, z = config.grid.shape
    shape = (len(cases), z, len(config.modalities), x, y)
    coarse, drafts = filled(
        folder, {"coarse.npy": shape, "drafts.npy": shape}, key,
        lambda number: maker.made(number, cases[number]), fabric, progress, dtype=np.uint8,
    )  # fmt: skip
    return DraftedSamples(cases, coarse, drafts)


def samples_of(maker: SampleMaker) -> DraftedSamples:
    """In memory, of every case: those that are no part of the training."""
    cases = tuple(range(len(maker.cohort)))
    coarse, drafts = zip(*[maker.made(case, case) for case in cases], strict=True)
    return DraftedSamples(cases, np.stack(coarse), np.stack(drafts))


def _stored(planes: NDArray[np.float32]) -> Images:
    """-1..1 as images are stored."""
    return np.rint((np.clip(planes, -1, 1) + 1) * np.float32(LEVELS / 2)).astype(np.uint8)

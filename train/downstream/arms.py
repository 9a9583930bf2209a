"""What segmenters are trained on: the arms of the comparison, and the cases of each training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.cohort import Cohort
from . import baselines

REAL, BOTH, SYNTHETIC = "real", "real+synthetic", "synthetic"
CARVED, WARPED = "real+carvemix", "real+warped"
ARMS = (REAL, BOTH, SYNTHETIC, CARVED, WARPED)


@dataclass(frozen=True)
class Training:
    """One segmenter to be trained."""

    arm: str
    real_cases: int  # 0 of the arm without real cases
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.arm}-{self.real_cases}-seed{self.seed}"


@dataclass(frozen=True)
class TrainingCases:
    """The cases of a training and the chance of each to be drawn."""

    cohort: Cohort
    chances: tuple[float, ...]


def planned(arms: Sequence[str], real_cases: Sequence[int], seeds: int) -> list[Training]:
    """Every training of a comparison, seed by seed, so that a run that is stopped early has all arms of some seeds."""
    found = []
    for seed in range(seeds):
        for arm in arms:
            counts = [0] if arm == SYNTHETIC else real_cases
            found += [Training(arm, count, seed) for count in counts if arm != CARVED or count > 1]
    return found


def training_cases(
    training: Training, real: Cohort, synthetic: Cohort | None, cache: Path, beside: int, workers: int
) -> TrainingCases:
    """The real cases of a training, the same ones in every arm of a seed, and what its arm puts beside them.

    Subsets of different sizes are nested. Where an arm has two parts, half of all draws are of each. Baselines make
    `beside` cases.
    """
    order = np.random.default_rng(training.seed).permutation(len(real))
    chosen = real if training.real_cases in (0, len(real)) else real.subset(sorted(order[: training.real_cases]))
    if training.arm == REAL:
        return TrainingCases(chosen, _equal(chosen))
    if training.arm in (CARVED, WARPED):
        kind = baselines.CARVEMIX if training.arm == CARVED else baselines.WARPED
        made = baselines.made_cases(kind, chosen, beside, training.seed, cache, workers)
        return _halves(chosen, made)
    if synthetic is None:
        raise ValueError(f"arm {training.arm} needs synthetic cases")
    return TrainingCases(synthetic, _equal(synthetic)) if training.arm == SYNTHETIC else _halves(chosen, synthetic)


def _equal(cohort: Cohort) -> tuple[float, ...]:
    return (1 / len(cohort),) * len(cohort)


def _halves(one: Cohort, other: Cohort) -> TrainingCases:
    joint = Cohort(one.grid, one.modalities, (*one.entries, *other.entries))
    return TrainingCases(joint, tuple(share / 2 for part in (one, other) for share in _equal(part)))

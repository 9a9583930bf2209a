"""Whether samples are training cases in disguise, and whether the measure that says so would notice.

Likeness is that of `engine.copies`: a modality and a part each, after alignment and normalisation, mirrored or not.
Held-out cases say how like a training case an honest new one is; copies that are planted say what would be found.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import copies
from ...engine.copies import PARTS, Likeness, Limits
from ..data.cohort import Cohort, in_processes
from . import bootstrap
from .plants import KINDS, Planter
from .volumes import in_content_order

PLANTED = 20  # copies of each kind, of as many training cases
FOUND_SHARE = 0.95  # of each kind, before "none" is said
WHOLE = PARTS.index("whole")

Features = NDArray[np.float16]


def memorisation(real: Cohort, synthetic: Cohort, training: Cohort, workers: int = 1) -> dict[str, Any]:
    """How close samples, held-out cases (`real`) and planted copies come to training cases.

    Closeness is 0 where a case is as like its nearest training case as held-out ones are on average, 1 at the limit
    that one more held-out case would exceed with a chance of `copies.FALSE_ALARM`. `memorised` lists the samples above
    1; it is None, with the `reason`, where too few held-out cases give no limit or planted copies are not found.
    """
    sides = [described(cohort, workers) for cohort in (real, synthetic, training)]
    held_out, samples = (copies.likeness(side, sides[2]) for side in sides[:2])
    figures: dict[str, Any] = {"membership": membership(*sides), "memorised": None, "planted": None}
    if len(real) < copies.MIN_HONEST:
        reason = f"{len(real)} held-out cases, {copies.MIN_HONEST} are needed"
        return figures | {"reason": reason, "held_out": None, "synthetic": None, "distances": None}
    limits = Limits.of(held_out.max(axis=1))
    found = planted(training, real, sides[2], limits, workers)
    missed = [kind for kind, share in found.items() if share["value"] < FOUND_SHARE]
    near = {"held_out": limits.closeness(held_out), "synthetic": limits.closeness(samples)}
    close = [_told(case, samples, near["synthetic"], limits, synthetic, training) for case in range(len(synthetic))]
    close = sorted((one for one in close if one["closeness"] > 1), key=lambda one: -one["closeness"])
    return figures | {
        "threshold": 1.0,
        **{side: _summary(values.max(axis=1)) for side, values in near.items()},
        "planted": found,
        "reason": f"planted copies are not found: {', '.join(missed)}" if missed else None,
        "memorised": close if close or not missed else None,
        "distances": {side: values.max(axis=1).tolist() for side, values in near.items()},
    }


def described(cohort: Cohort, workers: int = 1) -> Features:
    """What is compared of every case, in their order."""
    return np.stack(list(in_processes(partial(_described, cohort=cohort), range(len(cohort)), workers)))


def planted(training: Cohort, hosts: Cohort, features: Features, limits: Limits, workers: int = 1) -> dict[str, Any]:
    """Kind of copy -> the share that is found, with its interval: too close to a training case, and to the right one.

    `features` are those of the training cases; held-out cases (`hosts`) give the rest of copies of a part.
    """
    chosen = in_content_order(training)[:PLANTED]
    pairs = list(zip(chosen, (in_content_order(hosts) * len(chosen))[: len(chosen)], strict=True))
    made = in_processes(partial(_planted_features, training=training, hosts=hosts), pairs, workers)
    hits = dict.fromkeys(KINDS, 0)
    for (case, _), copied in zip(pairs, made, strict=True):
        closeness = limits.closeness(copies.likeness(copied, features))
        for kind, row in zip(KINDS, closeness, strict=True):
            hits[kind] += int(row.max() > 1 and row[case] >= row.max())
    return {kind: bootstrap.share(count, len(pairs)) for kind, count in hits.items()}


def membership(held_out: Features, synthetic: Features, training: Features) -> dict[str, Any]:
    """Area under the curve of an attack that says a case was trained on where a sample is like it; .5 tells nothing.

    The attack's score is the likeness of the whole brain, averaged over modalities, to the sample that is most like
    (distance to the nearest synthetic record). Held-out cases of another origin than the training cases raise it, too.
    """
    scores = [
        copies.likeness(side, synthetic)[..., WHOLE].mean(axis=2).max(axis=1).astype(np.float64)
        for side in (training, held_out)
    ]
    return bootstrap.between(*scores, area_under_curve, bootstrap.RESAMPLES)


def area_under_curve(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Chance that a positive score is above a negative one, ties half (Mann and Whitney)."""
    above = positive[:, None] - negative
    return float((above > 0).mean() + (above == 0).mean() / 2)


def _described(case: int, cohort: Cohort) -> Features:
    return copies.describe(_image(cohort, case), cohort.grid.spacing_mm)


def _planted_features(pair: tuple[int, int], training: Cohort, hosts: Cohort) -> Features:
    case, host = pair
    spacing = training.grid.spacing_mm
    planter = Planter(_image(training, case), _image(hosts, host), spacing, np.random.default_rng(case))
    return np.stack([copies.describe(make(planter), spacing) for make in KINDS.values()])


def _image(cohort: Cohort, case: int) -> NDArray[np.uint8]:
    return np.asarray(cohort.slices(case)).transpose(1, 2, 3, 0)


def _told(
    case: int, likeness: Likeness, closeness: NDArray[np.float64], limits: Limits, synthetic: Cohort, training: Cohort
) -> dict[str, Any]:
    order = np.argsort(-closeness[case])
    modality, part = limits.view(likeness[case, order[0]])
    return {
        "sample": synthetic.cases[case],
        "nearest": training.cases[int(order[0])],
        "closeness": float(closeness[case, order[0]]),
        "second": float(closeness[case, order[1]]) if len(order) > 1 else None,
        "modality": synthetic.modalities[modality],
        "part": PARTS[part],
        "likeness": float(likeness[case, order[0], modality, part]),
    }


def _summary(closeness: NDArray[np.float64]) -> dict[str, float]:
    return {"least": float(closeness.min()), "median": float(np.median(closeness)), "most": float(closeness.max())}

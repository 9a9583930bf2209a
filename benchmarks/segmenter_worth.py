"""What training volumes are worth: the Dice of a small segmenter trained on one cohort and tested on another.

python -m sbldm.benchmarks.segmenter_worth TRAIN --test TEST [--steps 600] [--seed 0] [--cases 48] [--cache FOLDER]

TRAIN and TEST are cohorts as `train --data` takes them. Prints the Dice of whole tumour, core and enhancing tumour
of every test case and their means, and a JSON line with the means.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from ..train.data.cohort import Cohort, prepare_cohort
from ..train.evaluation.segmenter import REGIONS, SegmenterSettings, Volume, dice, segment, train_segmenter


def volumes(cohort: Cohort) -> list[Volume]:
    """Images (modality, x, y, z) and labels (x, y, z) of every case."""
    return [
        (
            np.ascontiguousarray(cohort.slices(name).transpose(1, 2, 3, 0)),
            np.asarray(cohort.label(name).transpose(1, 2, 0)),
        )
        for name in cohort.cases
    ]


def main() -> None:
    """Train, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=SegmenterSettings.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="the first so many cases of TRAIN (default: all)")
    parser.add_argument("--cache", type=Path, help="where prepared cases are kept (default: nowhere)")
    given = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as nowhere:
        cache = given.cache or Path(nowhere)
        seen = volumes(prepare_cohort(given.train, cache))[: given.cases]
        tests = prepare_cohort(given.test, cache)
        unseen = volumes(tests)

    def advance(step: int, loss: float) -> None:
        if step % 50 == 0:
            console.print(f"{step}/{given.steps}  loss {loss:.3f}", highlight=False)

    model = train_segmenter(seen, SegmenterSettings(steps=given.steps, seed=given.seed), advance)
    scores = {
        name: dice(segment(model, image), label) for name, (image, label) in zip(tests.cases, unseen, strict=True)
    }
    for name, score in scores.items():
        print(name, *(f"{region} {score[region]:.3f}" for region in REGIONS))
    means = {region: float(np.mean([score[region] for score in scores.values()])) for region in REGIONS}
    print(json.dumps({"train": str(given.train), "cases": len(seen), "seed": given.seed, "dice": means}))


if __name__ == "__main__":
    main()

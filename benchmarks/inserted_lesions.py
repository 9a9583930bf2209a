"""What inserted lesions are worth: does a segmenter find them, and does one learn from them.

python -m sbldm.benchmarks.inserted_lesions --work DIR [--bundle glioma] [--cases 5,10,20] [--tests 12] [--seeds 2]
    [--steps 80] [--scans DIR --judge DIR]

Phantoms are made (those for tests on anatomies that training never sees); in each its lesion is taken out and a drawn
one put in. Then, as Markdown and a JSON line:

agreement    Dice of WT, TC, ET by a segmenter that is trained on the phantoms alone: of the test phantoms' own lesions,
             of lesions put into the test phantoms, of samples of the bundle; with --scans the same of patients' scans
             and of lesions put into them, by a segmenter trained on the cases of --judge
downstream   mean Dice of WT, TC, ET of segmenters on the test phantoms, by the number of phantoms that they were
             trained on: phantoms alone, and half of all draws phantoms with an inserted lesion, made of the same
             phantoms; with 95 % intervals of the difference

Dice is that of the whole brain, so what is left of a lesion that was taken out counts against it. What is there from an
earlier call is not made again, a training neither; DIR is for one bundle.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import SbldmError
from ..engine.files import write_atomic
from ..engine.generator import Generator
from ..engine.scans.options import ReadOptions
from ..train.data.cohort import Cohort, prepare_cohort
from ..train.downstream.figures import figures_of
from ..train.downstream.run import DownstreamOptions, compare
from ..train.evaluation.agreement import agreements, volume_of
from ..train.evaluation.segmenter import REGIONS, SegmenterSettings, segment, train_segmenter
from ..train.phantom import HELD_OUT, TRAINING, write_cohort

SEED = 15
JUDGE = 2  # times the steps, where a segmenter judges
log = logging.getLogger(__name__)


def made_whole(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, made where it is not there, whole or not at all."""
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(folder)
    return folder


def phantoms(folder: Path, count: int, seed: int, anatomies: Sequence[int]) -> Path:
    """A folder of phantoms."""
    return made_whole(folder, lambda part: write_cohort(part, count, seed, 1, anatomies=anatomies))


def inserted(generator: Generator, scans: Path, out: Path) -> Path:
    """A folder of the scans with another lesion each: `sbldm-CASE`; none of a scan without room for its tumour."""
    for number, scan in enumerate(sorted(path for path in scans.iterdir() if path.is_dir())):
        if (out / f"sbldm-{scan.name}").is_dir():
            continue
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        asked = [{"id": scan.name}]
        for made in generator.insert(scan, conditions=asked, remove=True, seed=SEED + number, faulty="skip"):
            made.save(part, name_by="id")
            out.mkdir(exist_ok=True)
            (part / f"sbldm-{scan.name}").rename(out / f"sbldm-{scan.name}")
        shutil.rmtree(part, ignore_errors=True)
        log.info("%s: %d of %s", out.name, number + 1, scans.name)
    return out


def generated(generator: Generator, count: int, out: Path) -> Path:
    """A folder of samples of the bundle."""

    def make(part: Path) -> None:
        for sample in generator.generate(count, seed=SEED, faulty="skip"):
            sample.save(part)

    return made_whole(out, make)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures of a JSON file, made where it is not there."""
    if not path.is_file():
        write_atomic(path, json.dumps(make()).encode())
    return json.loads(path.read_text("utf-8"))


def agreement(training: Cohort, judged: dict[str, Cohort], steps: int) -> dict[str, dict[str, float]]:
    """Mean Dice of each region in each of the cohorts, by a segmenter trained on another one."""
    model = train_segmenter(
        [volume_of(training, case) for case in range(len(training))], SegmenterSettings(steps=steps)
    )
    found = {}
    for name, cohort in judged.items():
        labels = [segment(model, volume_of(cohort, case)[0]) for case in range(len(cohort))]
        own, swapped = agreements(cohort, labels)
        found[name] = dict(zip(REGIONS, own.mean(axis=0).tolist(), strict=True))
        found[f"{name}, masks swapped"] = dict(zip(REGIONS, swapped.mean(axis=0).tolist(), strict=True))
    return found


def learned(work: Path, cases: int, seeds: int, steps: int) -> dict[str, Any]:
    """Rows of `downstream` for the first phantoms, with and without what was made of them."""
    names = sorted(path.name for path in (work / "phantoms").iterdir())[:cases]
    parts = {"real": [work / "phantoms" / name for name in names],
             "made": [work / "inserted" / f"sbldm-{name}" for name in names]}  # fmt: skip
    for part, folders in parts.items():
        (work / f"{part}-{cases}").mkdir(exist_ok=True)
        for folder in folders:
            link = work / f"{part}-{cases}" / folder.name
            if folder.is_dir() and not link.is_symlink():
                link.symlink_to(folder.absolute())
    options = DownstreamOptions(
        work / f"real-{cases}", work / f"made-{cases}", work / "tests", work / f"downstream-{cases}", work / "cache",
        ReadOptions(), arms=("real", "real+synthetic"), seeds=seeds, steps=steps, device="cpu", workers=1,
    )  # fmt: skip
    figures = figures_of(compare(options, log.info))["figures"]
    return {f"{row['arm']} {row['region']}": row for row in figures if row["metric"] == "dice"}


def table(agreed: dict[str, dict[str, float]], curves: dict[int, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| mask and image of | WT | TC | ET |", "| --- | --- | --- | --- |"]
    for name, dice in agreed.items():
        lines.append(f"| {name} | " + " | ".join(f"{dice[region]:.3f}" for region in REGIONS) + " |")
    lines += [
        "",
        "| phantoms | region | alone | with inserted lesions | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cases, rows in curves.items():
        for region in REGIONS:
            alone, both = rows[f"real {region}"], rows[f"real+synthetic {region}"]
            by = both["minus_real"]
            low, high = by["low"], by["high"]
            lines.append(f"| {cases} | {region.upper()} | {alone['value']:.3f} | {both['value']:.3f} | "
                         f"{by['value']:+.3f} ({low:+.3f} to {high:+.3f}) |")  # fmt: skip
    return "\n".join(lines)


def agreements_of(
    given: argparse.Namespace, generator: Generator, sides: dict[str, tuple[Path, Path]]
) -> dict[str, Any]:
    """`agreement` of each side: what a segmenter is trained on, and the scans whose lesions it is to find."""
    work, found = given.work, dict[str, Any]()
    samples = generated(generator, given.tests, work / "samples")
    for side, (training, scans) in sides.items():
        judged = {
            f"{side}s": scans,
            f"lesions put into {side}s": inserted(generator, scans, work / f"inserted-{side}s"),
            f"samples, judged by what is learned of {side}s": samples,
        }
        cohorts = {name: prepare_cohort(folder, work / "cache") for name, folder in judged.items()}
        cases = prepare_cohort(training, work / "cache")
        steps = given.steps * JUDGE
        found |= kept(work / f"agreement-{side}s-{steps}.json", partial(agreement, cases, cohorts, steps))
    return found


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bundle", default="glioma")
    parser.add_argument("--cases", default="5,10,20")
    parser.add_argument("--tests", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=80, help="of each training; twice as many of those for agreement")
    parser.add_argument("--scans", type=Path, help="folder of patients' scans with masks")
    parser.add_argument("--judge", type=Path, help="folder of other patients' scans with masks")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work, counts = given.work, [int(part) for part in given.cases.split(",")]
    if (given.scans is None) != (given.judge is None):
        parser.error("--scans and --judge go together")
    try:
        training = phantoms(work / "phantoms", max(counts), SEED, TRAINING)
        sides = {"phantom": (training, phantoms(work / "tests", given.tests, SEED + 1, HELD_OUT))}
        if given.scans is not None:
            sides["patient"] = given.judge, given.scans
        with Generator.load(given.bundle) as generator:
            inserted(generator, training, work / "inserted")
            agreed = agreements_of(given, generator, sides)
        curves = {count: learned(work, count, given.seeds, given.steps) for count in counts}
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(agreed, curves))
    print(json.dumps({"agreement": agreed, "downstream": curves}, default=np.ndarray.tolist))
    return 0


if __name__ == "__main__":
    sys.exit(main())

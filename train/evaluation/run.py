"""Everything `evaluate` measures, in order; each part is a function of its own module."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.bundle.load import Bundle
from ...engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from ...engine.conditions.adherence import adherence
from ...engine.copies import MIN_HONEST
from ...engine.errors import UsageError
from ...engine.run.description import RunDescription
from ...engine.run.manifest import MANIFEST_CSV
from ...engine.sampling.types import Backend
from ...engine.scans.options import ReadOptions
from ...engine.screen import counted
from ..data.cohort import Cohort, prepare_cohort
from ..data.samples import only_scans, tell_of_samples
from ..data.twins import contents, refuse_twins
from . import bootstrap, distribution
from .adherence import errors, requested_and_measured
from .agreement import FOLDS, agreement, by_volume, fits, look, trained_judge
from .alone import samples_alone
from .autoencoder import Autoencoder, autoencoder_of
from .diversity import ms_ssim_diversity
from .fid import NO_NETWORK, FeatureNetwork, case_features, frechet_distance
from .fidelity import (
    Description,
    anatomy,
    characteristic_distances,
    coherence,
    describe_cohort,
    intensity_distances,
    texture,
)
from .memorisation import memorisation
from .reconstruction import reconstruction
from .settings import described_run, deviations, run_of

SCHEMA_VERSION = 2  # of evaluation.json
NO_BUNDLE = "no --bundle was given, so sampler and steps were compared with nothing"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to compare, and how much of it."""

    real: Path | None
    synthetic: Path | None
    train: Path | None
    cache: Path
    held_out: int  # the last N cases of a folder that is both real and train
    pairs: int  # for MS-SSIM
    reconstruct: bool
    fid_network: Path | None
    segmenter_steps: int  # of training the segmenter that judges; 0 leaves out what needs it
    any_settings: bool  # samples that the bundle does not make by default count, too
    workers: int
    skip_invalid: bool
    read: ReadOptions  # of the real cases


@dataclass(frozen=True)
class Cohorts:
    """The three sides of the comparison on one grid."""

    real: Cohort | None
    synthetic: Cohort | None
    train: Cohort | None


@dataclass(frozen=True)
class Evaluation:
    """Figures for the report, and what its plots need beyond them."""

    figures: dict[str, Any]
    cohorts: Cohorts
    descriptions: dict[str, Description]  # real, synthetic; empty where not both are there
    autoencoder: Autoencoder | None
    pairs: dict[str, Any]  # condition column -> (samples, 2)


def evaluate(options: EvaluationOptions, bundle: Bundle | None, backend: Backend | None) -> Evaluation:
    """Measure what the given folders and bundle allow; what they do not is said under `not_measured`."""
    _require_enough(options)
    autoencoder = autoencoder_of(backend, bundle.manifest) if bundle is not None and backend is not None else None
    if options.reconstruct and autoencoder is None:
        raise UsageError("--reconstruct needs a bundle: give --bundle NAME or PATH")
    run = None if options.synthetic is None else run_of(options.synthetic)
    other = _accepted(options, run, bundle)
    cohorts = load_cohorts(options, bundle)
    network = None if options.fid_network is None else FeatureNetwork(options.fid_network)
    figures: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "inputs": _inputs(options, cohorts, bundle) | {"deviations": other},
        "not_measured": {},
    }
    if run is not None:
        figures["inputs"]["run"] = described_run(run, bundle)
    descriptions: dict[str, Description] = {}
    pairs: dict[str, Any] = {}
    real, synthetic = cohorts.real, cohorts.synthetic
    if synthetic is not None and options.synthetic is not None:
        if real is None:
            figures |= samples_alone(synthetic, bundle, options.pairs, options.workers)
        else:
            descriptions = {
                "real": describe_cohort(real, options.workers),
                "synthetic": describe_cohort(synthetic, options.workers),
            }
            figures |= _fidelity(real, synthetic, descriptions, options.pairs, network)
            _by_segmenter(figures, real, synthetic, options.segmenter_steps)
            _memorisation(figures, real, synthetic, cohorts.train, options.workers)
        pairs = _adherence(figures, options.synthetic)
        if bundle is None:
            figures["not_measured"]["whether the samples are a bundle's defaults"] = NO_BUNDLE
    if real is not None and options.reconstruct and autoencoder is not None:
        log.info("reconstruction of %d cases", len(real))
        figures["reconstruction"] = reconstruction(real, autoencoder)
    return Evaluation(figures, cohorts, descriptions, autoencoder, pairs)


def _require_enough(options: EvaluationOptions) -> None:
    if options.synthetic is None and not options.reconstruct:
        raise UsageError("nothing to do: give --synthetic DIR, or --reconstruct with a bundle, or both")
    if options.real is None:
        needing = {
            "--train": options.train, "--held-out": options.held_out, "--reconstruct": options.reconstruct,
            "--fid-network": options.fid_network,
        }  # fmt: skip
        for name, given in needing.items():
            if given:
                raise UsageError(f"{name} needs real cases: give --real DIR")


def _accepted(options: EvaluationOptions, run: RunDescription | None, bundle: Bundle | None) -> list[str]:
    """How samples differ from those that the bundle makes by default; UsageError where that was not asked for."""
    if bundle is None or options.synthetic is None:
        return []
    found = deviations(run, bundle, options.synthetic)
    if found and not options.any_settings:
        raise UsageError(
            f"{options.synthetic}: its samples are not those that {bundle.manifest.id} makes by default:\n"
            + "\n".join(f"  {line}" for line in found)
            + "\nmake others, or say --any-settings: the differences are then told beside the figures"
        )
    return found


def load_cohorts(options: EvaluationOptions, bundle: Bundle | None) -> Cohorts:
    """Prepare the folders on the bundle's grid (the default one without bundle)."""
    grid = DEFAULT_GRID if bundle is None else bundle.manifest.grid
    modalities = MODALITIES if bundle is None else bundle.manifest.modalities
    real, train = _real_sides(options, grid, modalities)
    synthetic = None
    if options.synthetic is not None:
        synthetic = _prepare(options.synthetic, options, grid, modalities, True, ReadOptions())
    if real is not None and train is not None:
        refuse_twins(real, train, "--real", "leave them out of it")
    return Cohorts(real, synthetic, train)


def _real_sides(
    options: EvaluationOptions, grid: Grid, modalities: tuple[str, ...]
) -> tuple[Cohort | None, Cohort | None]:
    """Held-out cases, which are scans or phantoms, and training cases, which may be samples; that is told."""
    if options.real is None:
        return None, None
    real = _prepare(options.real, options, grid, modalities, options.skip_invalid, options.read)
    train, together = None, options.train is not None and options.train.resolve() == options.real.resolve()
    if together or options.held_out:
        real, train = _split(real, options, together=together)
    if options.train is not None and not together:
        train = _prepare(options.train, options, grid, modalities, options.skip_invalid, options.read)
    if train is not None and options.train is not None:
        tell_of_samples(train, options.train)
    return only_scans(real, options.real, skip_invalid=options.skip_invalid), train


def _split(cohort: Cohort, options: EvaluationOptions, *, together: bool) -> tuple[Cohort, Cohort | None]:
    """The last cases of a folder, and the others where it is also `--train` (`together`)."""
    if not options.held_out:
        raise UsageError("--real and --train are the same folder: say with --held-out N which cases were held out")
    needed = options.held_out + together
    if needed > len(cohort):
        left = ", some must be left to train" if together else ""
        raise UsageError(f"--held-out {options.held_out}: {options.real} has {counted(len(cohort), 'case')}{left}")
    held_out = cohort.subset(cohort.cases[-options.held_out :])
    return held_out, cohort.subset(cohort.cases[: -options.held_out]) if together else None


def real_samples(real: Cohort | None, synthetic: Cohort | None) -> list[str]:
    """Names of the samples with the images of a case of `real`, voxel by voxel: they are no samples; that is told."""
    if real is None or synthetic is None:
        return []
    seen = {contents(entry)[0] for entry in real.entries}
    same = [entry.name for entry in synthetic.entries if contents(entry)[0] in seen]
    if same:
        log.warning("%s with the images of a case of --real, such as %s", counted(len(same), "sample"), same[0])
    return same


def _prepare(
    folder: Path,
    options: EvaluationOptions,
    grid: Grid,
    modalities: tuple[str, ...],
    skip_invalid: bool,
    read: ReadOptions,
) -> Cohort:
    log.info("preparing %s", folder)
    return prepare_cohort(
        folder, options.cache, grid,
        modalities=modalities, workers=options.workers, skip_invalid=skip_invalid, options=read,
    )  # fmt: skip


def _inputs(options: EvaluationOptions, cohorts: Cohorts, bundle: Bundle | None) -> dict[str, Any]:
    sides = {"real": cohorts.real, "synthetic": cohorts.synthetic, "train": cohorts.train}
    made = cohorts.synthetic
    any_side = next(cohort for cohort in sides.values() if cohort is not None)
    return {
        **{name: None if cohort is None else {"cases": len(cohort)} for name, cohort in sides.items()},
        "synthetic_left_out": {} if made is None else dict(made.left_out),
        "equal_to_real": real_samples(cohorts.real, made),
        "usable": None if made is None else bootstrap.share(len(made), len(made) + len(made.left_out)),
        "bundle": None if bundle is None else {"id": bundle.manifest.id, "sha256": bundle.sha256},
        "grid": {"shape": any_side.grid.shape, "spacing_mm": any_side.grid.spacing_mm},
        "modalities": any_side.modalities,
        "ms_ssim_pairs": options.pairs,
    }


def _fidelity(
    real: Cohort,
    synthetic: Cohort,
    descriptions: dict[str, Description],
    pairs: int,
    network: FeatureNetwork | None,
) -> dict[str, Any]:
    log.info("fidelity of %d samples against %d real cases", len(synthetic), len(real))
    sides = descriptions["real"], descriptions["synthetic"]
    diversity = {name: ms_ssim_diversity(cohort, pairs) for name, cohort in (("real", real), ("synthetic", synthetic))}
    compared = {}
    if network is not None:
        found = distribution.compare(case_features(real, network), case_features(synthetic, network))
        compared |= {} if found is None else {network.name: found}
    return {
        "distribution": compared,
        "ms_ssim": diversity,
        "fid": NO_NETWORK if network is None else frechet_distance(real, synthetic, network),
        "characteristics": characteristic_distances(real.conditions, synthetic.conditions),
        "intensities": intensity_distances(*sides, real.modalities),
        "texture": texture(*sides, real.modalities),
        "coherence": coherence(*sides),
        "anatomy": anatomy(*sides),
    }


def _by_segmenter(figures: dict[str, Any], real: Cohort, synthetic: Cohort, steps: int) -> None:
    """Agreement of image and mask, and the distribution of the segmenter's features."""
    why = "--segmenter-steps is 0" if not steps else fits(real)
    if why is not None:
        figures["not_measured"]["agreement of image and mask"] = why
        return
    log.info("agreement of image and mask: %d segmenters are trained, %d steps each", FOLDS, steps)
    judge = trained_judge(real, steps)
    seen = look(judge, real), look(judge, synthetic)
    figures["agreement"] = agreement(judge, *seen)
    figures["consistency"] = by_volume(synthetic, seen[1].dice)
    found = distribution.compare(*(side.features for side in seen))
    if found is None:
        least = 2 * distribution.LEAST, distribution.LEAST
        figures["not_measured"]["distribution"] = f"needs {least[0]} real cases and {least[1]} samples"
        return
    figures["distribution"]["segmenter"] = found | {"of": judge.name}


def _adherence(figures: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Requested and measured values of a run, whose figures are added."""
    manifest = folder / MANIFEST_CSV
    if not manifest.is_file():
        figures["not_measured"]["adherence"] = f"{folder} holds no {MANIFEST_CSV}"
        return {}
    pairs = requested_and_measured(manifest)
    figures["adherence"], figures["adherence_errors"] = adherence(pairs), errors(pairs)
    return pairs


def _memorisation(figures: dict[str, Any], real: Cohort, synthetic: Cohort, train: Cohort | None, workers: int) -> None:
    if train is None:
        figures["not_measured"]["memorisation"] = "no --train DIR was given"
        return
    if len(real) < MIN_HONEST:
        log.warning("only %d held-out cases: below %d no sample is told from a copy", len(real), MIN_HONEST)
    log.info("memorisation against %d training cases", len(train))
    figures["memorisation"] = memorisation(real, synthetic, train, workers)

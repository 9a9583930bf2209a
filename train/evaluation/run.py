"""Everything `evaluate` measures, in order; each part is a function of its own module."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.bundle.load import Bundle
from ...engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from ...engine.conditions.adherence import adherence
from ...engine.errors import InvalidInputError, UsageError
from ...engine.run.manifest import MANIFEST_CSV
from ...engine.sampling.types import Backend
from ...engine.scans.options import ReadOptions
from ..data.cohort import MAX_FAULTS_SHOWN, Cohort, prepare_cohort
from .adherence import requested_and_measured
from .autoencoder import Autoencoder, autoencoder_of
from .fid import NO_NETWORK, FeatureNetwork, frechet_distance
from .fidelity import (
    anatomy,
    characteristic_distances,
    coherence,
    describe_cohort,
    intensity_distances,
    ms_ssim_diversity,
)
from .memorisation import MIN_HELD_OUT, image_feature, latent_feature, memorisation
from .mmd import mmd
from .reconstruction import reconstruction
from .volumes import content_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to compare, and how much of it."""

    real: Path
    synthetic: Path | None
    train: Path | None
    cache: Path
    held_out: int  # the last N cases of a folder that is both real and train
    pairs: int  # for MS-SSIM
    reconstruct: bool
    fid_network: Path | None
    workers: int
    skip_invalid: bool
    read: ReadOptions  # of the real cases


@dataclass(frozen=True)
class Cohorts:
    """The three sides of the comparison on one grid."""

    real: Cohort
    synthetic: Cohort | None
    train: Cohort | None


@dataclass(frozen=True)
class Evaluation:
    """Figures for the report, and what its plots need beyond them."""

    figures: dict[str, Any]
    cohorts: Cohorts
    descriptions: dict[str, dict[str, Any]]  # real, synthetic -> `describe_cohort`
    autoencoder: Autoencoder | None
    pairs: dict[str, Any]  # condition column -> (samples, 2)


def evaluate(options: EvaluationOptions, bundle: Bundle | None, backend: Backend | None) -> Evaluation:
    """Measure what the given folders and bundle allow; what they do not is said under `not_measured`."""
    if options.synthetic is None and not options.reconstruct:
        raise UsageError("nothing to do: give --synthetic DIR, or --reconstruct with a bundle, or both")
    autoencoder = autoencoder_of(backend, bundle.manifest) if bundle is not None and backend is not None else None
    if options.reconstruct and autoencoder is None:
        raise UsageError("--reconstruct needs a bundle: give --bundle NAME or PATH")
    cohorts = load_cohorts(options, bundle)
    figures: dict[str, Any] = {"inputs": _inputs(options, cohorts, bundle), "not_measured": {}}
    descriptions: dict[str, dict[str, Any]] = {}
    pairs: dict[str, Any] = {}
    if cohorts.synthetic is not None and options.synthetic is not None:
        descriptions = {"real": describe_cohort(cohorts.real), "synthetic": describe_cohort(cohorts.synthetic)}
        figures |= _fidelity(cohorts.real, cohorts.synthetic, cohorts.train, descriptions, options)
        manifest = options.synthetic / MANIFEST_CSV
        if manifest.is_file():
            pairs = requested_and_measured(manifest)
            figures["adherence"] = adherence(pairs)
        else:
            figures["not_measured"]["adherence"] = f"{options.synthetic} holds no {MANIFEST_CSV}"
        _memorisation(figures, cohorts.real, cohorts.synthetic, cohorts.train, autoencoder)
    if options.reconstruct and autoencoder is not None:
        log.info("reconstruction of %d cases", len(cohorts.real))
        figures["reconstruction"] = reconstruction(cohorts.real, autoencoder)
    return Evaluation(figures, cohorts, descriptions, autoencoder, pairs)


def load_cohorts(options: EvaluationOptions, bundle: Bundle | None) -> Cohorts:
    """Prepare the folders on the bundle's grid (the default one without bundle)."""
    grid = DEFAULT_GRID if bundle is None else bundle.manifest.grid
    modalities = MODALITIES if bundle is None else bundle.manifest.modalities
    real = _prepare(options.real, options, grid, modalities, options.skip_invalid, options.read)
    train = None
    if options.train is not None:
        same = options.train.resolve() == options.real.resolve()
        if same and not options.held_out:
            raise UsageError("--real and --train are the same folder: say with --held-out N which cases were held out")
        train = real if same else _prepare(options.train, options, grid, modalities, options.skip_invalid, options.read)
        if same:
            if options.held_out >= len(real):
                raise UsageError(
                    f"--held-out {options.held_out}: the cohort has {len(real)} cases, some must be left to train"
                )
            train, real = real.subset(real.cases[: -options.held_out]), real.subset(real.cases[-options.held_out :])
    elif options.held_out:
        real = real.subset(real.cases[-options.held_out :])
    synthetic = None
    if options.synthetic is not None:
        synthetic = _prepare(options.synthetic, options, grid, modalities, True, ReadOptions())
    refuse_shared_cases(real, synthetic, train)
    return Cohorts(real, synthetic, train)


def refuse_shared_cases(real: Cohort, synthetic: Cohort | None, train: Cohort | None) -> None:
    """Compare the sides by content, whatever their cases are called; samples that equal a case are only told.

    Raises:
        InvalidInputError: held-out cases are training cases, so that no figure on them would mean anything.
    """
    seen = {content_digest(real, case): real.cases[case] for case in range(len(real))}
    if train is not None:
        leaked = [
            f"  {seen[digest]} is training case {train.cases[case]}"
            for case in range(len(train))
            if (digest := content_digest(train, case)) in seen
        ]
        if leaked:
            more = [f"  and {len(leaked) - MAX_FAULTS_SHOWN} more"] if len(leaked) > MAX_FAULTS_SHOWN else []
            listed = "\n".join(leaked[:MAX_FAULTS_SHOWN] + more)
            raise InvalidInputError(
                f"{len(leaked)} held-out cases were trained on:\n{listed}\nleave them out of --real"
            )
    if synthetic is not None:
        same = [synthetic.cases[k] for k in range(len(synthetic)) if content_digest(synthetic, k) in seen]
        if same:
            log.warning("%d samples equal a case of --real voxel by voxel, such as %s", len(same), same[0])


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
    return {
        **{name: None if cohort is None else {"cases": len(cohort)} for name, cohort in sides.items()},
        "synthetic_left_out": {} if cohorts.synthetic is None else dict(cohorts.synthetic.left_out),
        "bundle": None if bundle is None else {"id": bundle.manifest.id, "sha256": bundle.sha256},
        "grid": {"shape": cohorts.real.grid.shape, "spacing_mm": cohorts.real.grid.spacing_mm},
        "modalities": cohorts.real.modalities,
        "ms_ssim_pairs": options.pairs,
    }


def _fidelity(
    real: Cohort,
    synthetic: Cohort,
    train: Cohort | None,
    descriptions: dict[str, dict[str, Any]],
    options: EvaluationOptions,
) -> dict[str, Any]:
    log.info("fidelity of %d samples against %d real cases", len(synthetic), len(real))
    diversity = {
        name: ms_ssim_diversity(cohort, options.pairs) for name, cohort in (("real", real), ("synthetic", synthetic))
    }
    network = None if options.fid_network is None else FeatureNetwork(options.fid_network)
    return {
        "mmd": {"synthetic": mmd(real, synthetic), "train": None if train is None else mmd(real, train)},
        "ms_ssim": diversity,
        "fid": NO_NETWORK if network is None else frechet_distance(real, synthetic, network),
        "characteristics": characteristic_distances(real.conditions, synthetic.conditions),
        "intensities": intensity_distances(descriptions["real"], descriptions["synthetic"], real.modalities),
        "coherence": coherence(descriptions["real"], descriptions["synthetic"]),
        "anatomy": {name: anatomy(description) for name, description in descriptions.items()},
    }


def _memorisation(
    figures: dict[str, Any], real: Cohort, synthetic: Cohort, train: Cohort | None, autoencoder: Autoencoder | None
) -> None:
    if train is None:
        figures["not_measured"]["memorisation"] = "no --train DIR was given"
        return
    if len(real) < MIN_HELD_OUT:
        log.warning(
            "only %d held-out cases: below %d no sample is told from a copy by its distance", len(real), MIN_HELD_OUT
        )
    log.info("memorisation against %d training cases", len(train))
    found = {"image": memorisation(image_feature, real, synthetic, train)}
    if autoencoder is None:
        figures["not_measured"]["memorisation in latent space"] = "no --bundle was given"
    else:
        found["latent"] = memorisation(latent_feature(autoencoder), real, synthetic, train)
    figures["memorisation"] = found

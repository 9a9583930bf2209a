"""The command that makes one sample of a run again, from what run.json records of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ..bundle.load import Bundle, is_shipped
from ..run.description import InsertDigest, MasksDigest, RunDescription, SourceDigest

CONDITIONS, CASE, MASKS, BUNDLE, CASES = "CONDITIONS.csv", "CASE", "MASKS", "BUNDLE", "CASES"


@dataclass(frozen=True)
class Recipe:
    """A command line with `--samples` left out, and what its placeholders stand for."""

    words: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, sample: int) -> str:
        """The command for one sample, as a shell takes it."""
        return shlex.join([*self.words, "--samples", str(sample), "--out", f"sample-{sample}"])


def recipe(run: RunDescription, bundle: Bundle | None) -> Recipe:
    """How the samples of a run are made again; `bundle` is the run's, where it is at hand."""
    options, resolved = run.options, run.resolved
    words, notes = ["sbldm-engine", "generate"], []
    if isinstance(run.source, SourceDigest):
        words = ["sbldm-engine", "augment", CASE, "--strength", repr(run.source.strength)]
        notes.append(f"{CASE}: the folder of the case that the run starts from")
    elif isinstance(run.source, InsertDigest):
        words, notes = _inserted(run.source)
    elif run.source is not None:
        words += ["--masks", MASKS]
        notes.append(f"{MASKS}: the folder of the masks that were given to the run")
        if isinstance(run.source, MasksDigest) and run.source.edits:
            words += ["--conditions", CONDITIONS]
            notes.append(f"{CONDITIONS}: the rows that edited the masks, sha256 {run.source.edits}")
    if isinstance(run.source, SourceDigest) and options.layout == "dicom":
        words += ["--identity", run.source.identity]
    words += ["--count", str(options.count)]
    if run.conditions is not None:
        words += ["--conditions", CONDITIONS]
        notes.append(f"{CONDITIONS}: the conditions file of the run, sha256 {run.conditions.sha256}")
    shipped = bundle is not None and is_shipped(bundle)
    words += ["--bundle", bundle.path.name if bundle is not None and shipped else BUNDLE]
    if not shipped:
        notes.append(f"{BUNDLE}: the path of {run.bundle.id}, whose bundle.json has sha256 {run.bundle.sha256}")
    words += ["--seed", str(options.seed), "--steps", str(options.steps), "--sampler", options.sampler]
    words += ["--eta", repr(options.eta), "--guidance", repr(options.guidance)]
    words += ["--layout", options.layout, "--names", options.names, "--name-by", options.name_by]
    words += ["--rtstruct"] if options.rtstruct else []
    words += ["--grid", options.grid if run.dataset_grid is None else "native"]
    if run.dataset_grid is not None:
        notes.append("the run took the voxels of a data set (--add-to); alone, a sample is made in the model's voxels")
    if options.reject is not None:
        words += ["--reject", repr(options.reject)]
    if run.exclude_copies is not None:
        words += ["--exclude-copies", CASES]
        notes.append(f"{CASES}: the folder of the {run.exclude_copies} that no sample may be a copy of")
    if options.reject is not None or run.exclude_copies is not None:
        words += ["--attempts", str(options.attempts)]
    words += ["--backend", resolved.backend, "--device", resolved.device, "--precision", resolved.precision]
    words += ["--batch-size", str(resolved.batch_size), "--threads", str(resolved.threads)]
    return Recipe(tuple(words), tuple(notes))


def _inserted(source: InsertDigest) -> tuple[list[str], list[str]]:
    words = ["sbldm-engine", "augment", CASE]
    words += [flag for flag, is_set in (("--remove", source.removes), ("--insert", source.inserts)) if is_set]
    notes = [f"{CASE}: the folder of the scan that the run starts from"]
    if source.masks:
        words += ["--masks", MASKS]
        notes.append(f"{MASKS}: the folder of the {source.masks} masks that were given to the run")
    if source.volumes_ml:
        words += ["--volumes", ",".join(f"{volume!r}" for volume in source.volumes_ml)]
        notes.append("with --volumes, give the --conditions of the run too, where it had any")
    words += ["--margin", repr(source.margin_mm), *(["--mass-effect"] if source.mass_effect else [])]
    return words, notes

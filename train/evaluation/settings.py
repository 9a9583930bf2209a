"""What a folder of samples was made with, and whether that is what its bundle is used with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ...engine.bundle.load import Bundle
from ...engine.report.command import recipe
from ...engine.run.description import RUN_NAME, RunDescription, read_description

SAMPLING = ("sampler", "steps", "eta", "guidance")


def run_of(folder: Path) -> RunDescription | None:
    """The run that made a folder of samples; None where it is no run's directory.

    Raises:
        InvalidInputError: its run.json is damaged.
    """
    return read_description(folder) if (folder / RUN_NAME).is_file() else None


def described_run(run: RunDescription, bundle: Bundle | None) -> dict[str, Any]:
    """Bundle, sampling and the command of a run, for the record."""
    same = bundle is not None and bundle.manifest.id == run.bundle.id
    command = shlex.join(recipe(run, bundle if same else None).words)
    options = {name: getattr(run.options, name) for name in (*SAMPLING, "seed", "count", "reject")}
    machine = {"backend": run.resolved.backend, "precision": run.resolved.precision}
    return {"bundle": run.bundle.id, **options, **machine, "versions": dict(run.versions), "command": command}


def deviations(run: RunDescription | None, bundle: Bundle, folder: Path) -> list[str]:
    """What sets samples apart from those that the bundle makes by default, a line each; empty where nothing does."""
    if run is None:
        return [f"{folder} holds no {RUN_NAME}, so nobody knows how its samples were made"]
    found, defaults = [], bundle.manifest.defaults
    if run.bundle.id != bundle.manifest.id:
        found.append(f"they are of bundle {run.bundle.id}, not of {bundle.manifest.id}")
    for name in SAMPLING:
        used, usual = getattr(run.options, name), getattr(defaults, name)
        if used != usual:
            found.append(f"{name} {used}, the bundle's default is {usual}")
    if run.options.reject is not None:
        found.append(f"tumours that missed their request were drawn again (--reject {run.options.reject:g})")
    if run.source is not None:
        found.append(f"they start from {run.source}")
    return found

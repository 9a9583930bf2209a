"""A benchmark's result as a file for others: machine, command and figures, nothing of who ran it or where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine.bundle.load import Bundle
from ..engine.bundle.store import shipped_bundles
from ..engine.doctor import without_paths
from ..engine.errors import UsageError
from ..engine.folder import Folder
from .bench import BenchResult
from .machine import BUSY_CORES, operating_system
from .plan import BenchPlan

FORMAT = 1
KEPT = ("date", "versions", "bundle", "machine", "energy", "gates", "components", "points", "processes")
"""What a submission has as the benchmark's own JSON has it."""


def submission(result: BenchResult, bundle: Bundle, name: str) -> dict[str, Any]:
    """Plain data of a complete result of a bundle, which `--bundle` called `name`; paths are cut short."""
    data, defaults = result.to_json(), bundle.manifest.defaults
    timings = [figure.timing for figure in (*result.components, *result.points)]
    busy = sum(t.busy_runs for t in timings) + sum(p.other_cores > BUSY_CORES for p in result.processes)
    assert result.machine is not None  # which a complete result has
    told = {
        "submission": FORMAT,
        "command": command_of(result.plan, name),
        "operating_system": operating_system(),
        "threads": result.plan.threads or result.machine.threads,
        "samples": {"taken": sum(t.runs for t in timings) + len(result.processes), "busy": busy},
        "default": {"sampler": defaults.sampler, "steps": defaults.steps},
    }
    return without_paths(told | {key: data[key] for key in KEPT}, *_folders(bundle.path))


def _folders(path: Path) -> list[str]:
    """How reasons may call the bundle's folder; a relative name of one part is no path, and could be any word."""
    return [str(path.absolute()), *([str(path)] if len(path.parts) > 1 else [])]


def command_of(plan: BenchPlan, name: str) -> str:
    """The command that measures a plan again; a bundle that did not come with the program is `BUNDLE`."""
    options: dict[str, object] = {
        "bundle": name if name in shipped_bundles() else "BUNDLE",
        "device": plan.device,
        "backends": ",".join(plan.backends),
        "steps": ",".join(map(str, plan.steps)),
        "samplers": ",".join(plan.samplers),
        "batch": ",".join(map(str, plan.batches)),
        "volumes": plan.volumes,
        "repeats": plan.repeats,
        "reference-steps": plan.reference_steps,
    }
    if plan.threads is not None:
        options["threads"] = plan.threads
    return " ".join(["sbldm-engine bench", *(f"--{option} {value}" for option, value in options.items())])


def require_new(path: Path) -> None:
    """UsageError where a submission cannot become this file: it is there, or its folder is not."""
    if not path.parent.is_dir():
        raise UsageError(f"--submit {path}: its folder does not exist")
    if path.is_symlink() or path.exists():
        raise UsageError(f"--submit {path}: is there already, and submissions are not overwritten; give a new name")


def write_new(path: Path, data: bytes) -> None:
    """Write a submission, whole or not at all; UsageError where that cannot be, or something took the name."""
    try:
        with Folder(path.parent) as folder:
            made = folder.create(path.name, data)
    except OSError as error:
        raise UsageError(f"--submit {path}: cannot be written: {error.strerror or error}") from error
    if not made:
        require_new(path)

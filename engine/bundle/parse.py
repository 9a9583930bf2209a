"""The bytes of a `bundle.json` into a manifest that holds together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..decode import decode
from ..errors import InvalidInputError
from .fitted import sampling_faults
from .manifest import (
    COMPONENT_OUTPUTS,
    FILE_PART,
    MAX_FILE_NAME,
    MAX_NAMES,
    MAX_VOXELS,
    NAME,
    OPTIONAL_COMPONENTS,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    SEGMENTATION,
    BundleManifest,
)
from .mask_first import mask_first_faults


def parse_manifest(raw: bytes, where: str) -> BundleManifest:
    """Decode and check the bytes of a `bundle.json`; `where` names it in messages.

    Raises:
        InvalidInputError: not JSON, another schema version, or values that contradict each other.
    """
    try:
        data = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not valid JSON ({error})") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version not in READABLE_VERSIONS:
        read = f"{READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}"
        raise InvalidInputError(
            f"{where}: schema_version is {version!r}, this version reads {read}; "
            "take the version that made the bundle, or export it again"
        )
    data = _of_slices(data, where) if version == 1 else data
    manifest = decode(BundleManifest, data if version == SCHEMA_VERSION else _without_fitted_steps(data, where), where)
    for problem in _contradictions(manifest):
        raise InvalidInputError(f"{where}: {problem}")
    return manifest


def _of_slices(data: dict[str, Any], where: str) -> dict[str, Any]:
    """A manifest of version 1, which had one form, as version 2 writes it."""
    added = {"form": "slices", "mask_first": None}
    if early := sorted(added.keys() & data.keys()):
        raise InvalidInputError(f"{where}: key {early[0]!r} belongs to schema_version 2, this says 1")
    return data | added


def _without_fitted_steps(data: dict[str, Any], where: str) -> dict[str, Any]:
    """A manifest of version 2 as this version writes it."""
    parts = {name: data[name] for name in ("schedule", "mask_first") if isinstance(data.get(name), dict)}
    for name, part in parts.items():
        if "fitted" in part:
            raise InvalidInputError(f"{where}: key '{name}.fitted' belongs to schema_version 3, this says an older one")
    return data | {"schema_version": SCHEMA_VERSION} | {name: part | {"fitted": []} for name, part in parts.items()}


def _contradictions(m: BundleManifest) -> list[str]:
    problems = _name_problems(m) + m.grid.problems()
    size = 1
    for n in m.latent.shape:
        size *= n
    if len(m.latent.shape) not in (3, 4) or min(m.latent.shape) < 1 or size > MAX_VOXELS:
        problems.append(f"latent.shape {m.latent.shape}: 3 or 4 positive axes, at most {MAX_VOXELS} elements")
    table = np.asarray(m.schedule.alphas_cumprod)
    if table.size == 0 or not np.all((table >= 0) & (table <= 1)) or np.any(np.diff(table) > 0):
        problems.append("schedule.alphas_cumprod: must be a falling table of values from 0 to 1")
    problems += sampling_faults("defaults", m.defaults, "schedule", m.schedule.fitted, table.size)
    known = COMPONENT_OUTPUTS[m.form].keys()
    missing, unknown = known - OPTIONAL_COMPONENTS - m.components.keys(), m.components.keys() - known
    if missing or unknown:
        problems.append(f"components: missing {sorted(missing)}, unknown {sorted(unknown)} in the form {m.form}")
    problems += m.cohort.problems()
    if tuple(column.name for column in m.condition_columns) != m.cohort.columns:
        problems.append(f"condition_columns: must be the cohort's columns {', '.join(m.cohort.columns)}")
    problems += [
        f"components.{n}: file {c.file!r} is not in files" for n, c in m.components.items() if c.file not in m.files
    ]
    if m.form == "slices" and m.mask_first is not None:
        problems.append("mask_first: must be null in the form slices")
    if m.form == "mask-first" and not problems:
        problems += mask_first_faults(m)
    return problems


def _name_problems(m: BundleManifest) -> list[str]:
    problems: list[str] = []
    for kind, names in (("modalities", m.modalities), ("labels", m.labels), ("components", tuple(m.components))):
        problems += [f"{kind}: name {name!r} must match {NAME.pattern}" for name in names if not NAME.fullmatch(name)]
        if len(set(names)) != len(names) or len(names) > MAX_NAMES:
            problems.append(f"{kind}: must be at most {MAX_NAMES} different names")
    if SEGMENTATION in m.modalities:
        problems.append(f"modalities: {SEGMENTATION!r} is the name of the mask")
    problems += [
        f"files: name {name!r} must be parts of letters, digits, '.', '_' and '-' joined by '/'"
        for name in m.files
        if len(name) > MAX_FILE_NAME or not all(FILE_PART.fullmatch(part) for part in name.split("/"))
    ]
    problems += [f"files: {name!r} has {r.bytes} bytes" for name, r in m.files.items() if r.bytes < 0]
    return problems

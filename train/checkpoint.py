"""Checkpoints: safetensors for tensors, JSON for the rest, each written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..engine.errors import InvalidInputError
from .config import AnySystem, config_from_json, config_to_json

FORMAT_VERSION = 1
OS_ERROR = re.compile(r"\(os error (\d+)\)")
SYSTEM_NAME = "system.json"
STAGES = ("autoencoder", "aggregator", "denoiser", "refiner", "distill", "mask")  # a stage's seed is its place


def write_json(path: Path, data: object) -> None:
    """Write JSON atomically (temporary name, fsync, rename)."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        json.dump(data, handle, indent=1, allow_nan=False)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InvalidInputError: the file is missing, unreadable or not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error}); is this a training directory?") from error
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path}: must be a JSON object")
    return data


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors atomically as safetensors.

    Raises:
        OSError: what the system said, which safetensors has in words.
    """
    temporary = path.with_name(path.name + ".tmp")
    plain = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    try:
        save_file(plain, temporary, metadata=dict(metadata or {}))
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        if (number := OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors from a safetensors file.

    Raises:
        InvalidInputError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from error


def save_system(directory: Path, config: AnySystem) -> None:
    """Write the configuration that a training directory belongs to."""
    write_json(directory / SYSTEM_NAME, {"format_version": FORMAT_VERSION, "config": config_to_json(config)})


def load_system(directory: Path) -> AnySystem:
    """The configuration of a training directory.

    Raises:
        InvalidInputError: not a training directory, or one of another format version.
    """
    path = directory / SYSTEM_NAME
    data = read_json(path)
    if data.get("format_version") != FORMAT_VERSION:
        raise InvalidInputError(
            f"{path}: checkpoint format {data.get('format_version')!r}, this version reads {FORMAT_VERSION}; "
            "train again or export with the version that wrote it"
        )
    return config_from_json(data.get("config"), str(path))


def weights_path(directory: Path, stage: str) -> Path:
    """Where a stage keeps the weights that later stages and the export use (EMA)."""
    return directory / stage / "weights.safetensors"


def load_weights(module: nn.Module, directory: Path, stage: str) -> None:
    """Load a stage's finished weights into a module.

    Raises:
        InvalidInputError: the stage was not trained, or its tensors do not fit the configuration.
    """
    path = weights_path(directory, stage)
    if not path.is_file():
        raise InvalidInputError(f"{path}: missing; train stage {stage!r} first")
    tensors = read_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InvalidInputError(f"{path}: does not fit {directory / SYSTEM_NAME}: {error}") from error

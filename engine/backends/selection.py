"""The choice that `sbldm-engine bench --select` measured on this machine, kept in the user's cache.

`auto` follows it where it was made for the very same bundle, package versions, processor and thread count, and takes
the embedded ONNX Runtime otherwise: what a run computes never depends on a clock that nobody asked to be looked at.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..bundle.load import Bundle
from ..decode import decode
from ..errors import InvalidInputError
from ..files import make_directory, write_atomic
from ..portable import cache_home
from ..processor import cpu_flags, cpu_name
from ..versions import installed

PACKAGES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Choice:
    """A measured choice of backend."""

    backend: str  # a name that --backend takes
    precision: str
    date: str
    seconds: dict[str, dict[str, float]]  # component -> backend:precision -> seconds a call, for people


def choice_path(bundle: Bundle, threads: int) -> Path:
    """Where the choice for this bundle, machine and thread count lies."""
    key = [bundle.sha256, cpu_name(), sorted(cpu_flags()), threads, [installed(name) for name in PACKAGES]]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return cache_directory() / f"{digest[:32]}.json"


def cache_directory() -> Path:
    """Folder of choices in the user's cache directory; OSError for a user without one."""
    return cache_home() / "backend-choice"


def stored_choice(bundle: Bundle, threads: int) -> Choice | None:
    """The measured choice, None without one or where the file cannot be used."""
    try:
        path = choice_path(bundle, threads)
        return decode(Choice, json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError, InvalidInputError):
        return None


def store_choice(bundle: Bundle, threads: int, choice: Choice) -> Path:
    """Keep a choice for `auto`; OSError where the cache cannot be written."""
    path = choice_path(bundle, threads)
    make_directory(path.parent)
    write_atomic(path, (json.dumps(asdict(choice), indent=1, allow_nan=False) + "\n").encode())
    return path

"""The cache of built TensorRT engines: an engine is either the right one for its full key or it is not loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import BackendUnavailableError, InvalidInputError, UsageError
from ...files import FULL, make_directory, write_atomic
from ...portable import cache_home

SIDECAR_SCHEMA = 2
MAX_SIDECAR_BYTES = 1 << 20
LOCK_SECONDS = 3600.0


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on; two engines are interchangeable only if all of it is equal."""

    component: str
    onnx_sha256: str
    flavour: str  # "tensorrt" or "tensorrt_rtx"
    flavour_version: str  # e.g. "1.7.1.116"
    cuda_driver: str  # version that the driver reports, e.g. "13000"; "none" where there is no driver
    gpu_model: str  # e.g. "NVIDIA H100 80GB HBM3"; "any" where engines are for a compute capability
    compute_capability: str  # e.g. "89"
    hardware_compatibility: str  # "none", or the capabilities that share the engine
    precision: str  # "fp32", "tf32", "fp16", "bf16"
    tf32: str  # "on" or "off": what fp32 products are computed in
    workspace_mb: str  # scratch memory that the builder planned with
    batch: str  # the one size of axis 0

    def digest(self) -> str:
        """sha256 of the canonical JSON form of the key."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Names and values of the parts in which `other` (a sidecar's key) departs from this key."""
        faults = [
            f"{field.name}: engine has {other.get(field.name)!r}, needed {getattr(self, field.name)!r}"
            for field in fields(self)
            if other.get(field.name) != getattr(self, field.name)
        ]
        known = {field.name for field in fields(self)}
        return faults + [f"{name}: not a part of a key" for name in other if name not in known]


@dataclass(frozen=True)
class CachedEngine:
    """An engine whose key and checksum have been verified."""

    path: Path
    blob: bytes
    figures: dict[str, Any]  # what the build measured: seconds, bytes
    built: bool  # built by this call, not found


def read_engine(path: Path, key: EngineKey) -> CachedEngine:
    """Read the engine at `path` if its sidecar restates exactly `key` and its bytes have the sidecar's checksum.

    Raises:
        InvalidInputError: sidecar missing or malformed, another key (each difference is named), bytes changed.
    """
    sidecar = read_sidecar(path)
    differences = key.differences(sidecar["key"])
    if differences:
        raise InvalidInputError(f"{path}: engine of another key refused\n  " + "\n  ".join(differences))
    try:
        size = path.stat().st_size
        if size != sidecar["engine"]["bytes"]:
            raise InvalidInputError(f"{path}: {size} bytes, its sidecar says {sidecar['engine']['bytes']}")
        blob = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path}: engine cannot be read: {error}") from error
    if hashlib.sha256(blob).hexdigest() != sidecar["engine"]["sha256"]:
        raise InvalidInputError(f"{path}: engine was changed after it was built (sha256 differs from its sidecar)")
    return CachedEngine(path, blob, dict(sidecar["figures"]), built=False)


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside an engine: schema, key, engine (sha256, bytes), figures. Raises InvalidInputError."""
    sidecar_path = sidecar_of(path)
    try:
        if sidecar_path.stat().st_size > MAX_SIDECAR_BYTES:
            raise InvalidInputError(f"{sidecar_path}: larger than {MAX_SIDECAR_BYTES} bytes, not a sidecar")
        sidecar = json.loads(sidecar_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{sidecar_path}: no readable sidecar: {error}") from error
    if not isinstance(sidecar, dict) or sidecar.get("schema") != SIDECAR_SCHEMA:
        raise InvalidInputError(f"{sidecar_path}: not an engine sidecar of schema {SIDECAR_SCHEMA}")
    parts = [sidecar.get(name) for name in ("key", "engine", "figures")]
    if not all(isinstance(part, dict) for part in parts) or not {"sha256", "bytes"} <= set(sidecar["engine"]):
        raise InvalidInputError(f"{sidecar_path}: key, engine or figures missing")
    return sidecar


def sidecar_of(path: Path) -> Path:
    """`x.engine` -> `x.json`."""
    return path.with_suffix(".json")


class EngineCache:
    """Engines under one directory, one file and one JSON sidecar a key."""

    def __init__(self, root: Path | None = None) -> None:
        if root is None:
            try:
                root = cache_home() / "engines"
            except OSError as error:
                raise UsageError(f"engines cannot be cached: {error.strerror}") from error
        self.root = root

    def path_of(self, key: EngineKey) -> Path:
        """Where the engine of this key lies; the name is no proof, the sidecar is."""
        return self.root / f"{key.component}-{key.digest()[:32]}.engine"

    def lookup(self, key: EngineKey) -> CachedEngine | None:
        """The verified engine of this key, or None where there is none, a stale or a damaged one."""
        path = self.path_of(key)
        if not path.exists():
            return None
        try:
            return read_engine(path, key)
        except InvalidInputError:
            return None

    def get_or_build(
        self, key: EngineKey, build: Callable[[], tuple[bytes, dict[str, Any]]], rebuild: bool = False
    ) -> CachedEngine:
        """The engine of this key; `build() -> (bytes, figures)` runs under a file lock where it is not cached.

        A second process that asks for the same key meanwhile waits and then reads the first one's engine.

        Raises:
            UsageError: the cache directory cannot be written.
            BackendUnavailableError: another process held the lock for an hour; whatever `build` raises.
        """
        import filelock

        found = None if rebuild else self.lookup(key)
        if found is not None:
            return found
        path = self.path_of(key)
        try:
            with self._write_faults():
                make_directory(self.root, mode=0o700)
                with filelock.FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
                    found = None if rebuild else self.lookup(key)
                    if found is not None:
                        return found
                    blob, figures = build()
                    self._store(path, key, blob, figures)
                    return CachedEngine(path, blob, figures, built=True)
        except filelock.Timeout as error:
            raise BackendUnavailableError(
                f"another process has been building {path.name} for {LOCK_SECONDS / 60:.0f} minutes; "
                f"end it or remove {error.lock_file}"
            ) from error

    def update_figures(self, key: EngineKey, figures: Mapping[str, Any]) -> None:
        """Add measured figures to the sidecar of a cached engine.

        Raises:
            InvalidInputError: it has no readable sidecar.
            UsageError: the cache directory cannot be written.
        """
        path = self.path_of(key)
        sidecar = read_sidecar(path)
        sidecar["figures"] |= figures
        with self._write_faults():
            write_atomic(sidecar_of(path), _json_bytes(sidecar))

    @contextmanager
    def _write_faults(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:  # of the lock, which is told otherwise
            raise
        except OSError as error:
            reason = "the disk is full" if error.errno in FULL else str(error)
            raise UsageError(
                f"engine cache {self.root} cannot be written: {reason}; choose another cache directory"
            ) from error

    def _store(self, path: Path, key: EngineKey, blob: bytes, figures: Mapping[str, Any]) -> None:
        sidecar = {
            "schema": SIDECAR_SCHEMA,
            "key": asdict(key),
            "engine": {"sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)},
            "figures": dict(figures),
        }
        write_atomic(path, blob, sync=False)  # the sidecar's name and this one become lasting together
        write_atomic(sidecar_of(path), _json_bytes(sidecar))


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()

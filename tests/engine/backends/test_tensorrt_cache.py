"""Engines are loaded for their full key only."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.backends.tensorrt.cache import EngineCache, EngineKey, read_engine, sidecar_of
from sbldm.engine.errors import BackendUnavailableError, InvalidInputError, UsageError

KEY = EngineKey(
    "denoiser", "ab" * 32, "tensorrt", "11.2", "13000", "NVIDIA L4", "89", "none", "fp16", "off", "4096", "8"
)
FIGURES = {"build_seconds": 1.5, "engine_bytes": 6}


def builder(blob: bytes = b"engine") -> Any:
    return lambda: (blob, dict(FIGURES))


def refuse_to_build() -> tuple[bytes, dict[str, Any]]:
    raise AssertionError("built although the engine is cached")


def test_an_engine_is_built_once_and_then_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "new" / "cache")
    first = cache.get_or_build(KEY, builder())
    second = cache.get_or_build(KEY, refuse_to_build)
    assert (first.blob, first.built) == (b"engine", True)
    assert (second.blob, second.built, second.figures) == (b"engine", False, FIGURES)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_every_part_of_the_key_decides(field: str, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.get_or_build(KEY, builder())
    other = dataclasses.replace(KEY, **{field: "other"})
    assert cache.lookup(other) is None
    path = cache.path_of(KEY)
    with pytest.raises(InvalidInputError, match=f"{field}: engine has .*needed 'other'"):
        read_engine(path, other)
    path.rename(cache.path_of(other))  # even under the right name
    sidecar_of(path).rename(sidecar_of(cache.path_of(other)))
    assert cache.lookup(other) is None
    assert cache.get_or_build(other, builder(b"right")).blob == b"right"


@given(st.text(max_size=8), st.text(max_size=8))
def test_keys_with_other_text_have_other_digests(a: str, b: str) -> None:
    one = dataclasses.replace(KEY, precision=a, batch=b)
    two = dataclasses.replace(KEY, precision=b, batch=a)
    assert (one.digest() == two.digest()) == (a == b)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"eng1ne"),
        lambda path: path.write_bytes(b"engin"),
        lambda path: sidecar_of(path).unlink(),
        lambda path: sidecar_of(path).write_text("{"),
        lambda path: sidecar_of(path).write_text('{"schema": 2, "key": [], "engine": {}, "figures": {}}'),
        lambda path: sidecar_of(path).write_text("[" * 100_000),
        lambda path: sidecar_of(path).write_text('{"schema": 1}'),
    ],
)
def test_a_damaged_engine_is_refused_and_built_again(damage: Any, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    path = cache.get_or_build(KEY, builder()).path
    damage(path)
    with pytest.raises(InvalidInputError, match=path.stem):
        read_engine(path, KEY)
    assert cache.get_or_build(KEY, builder()).built
    assert cache.lookup(KEY) is not None


def test_rebuild_replaces_what_is_cached(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.get_or_build(KEY, builder(b"old"))
    assert cache.get_or_build(KEY, builder(b"new"), rebuild=True).blob == b"new"
    assert cache.get_or_build(KEY, refuse_to_build).blob == b"new"


def test_two_that_ask_at_once_build_once(tmp_path: Path) -> None:
    builds: list[int] = []
    engines: list[bytes] = []

    def slow() -> tuple[bytes, dict[str, Any]]:
        builds.append(1)
        time.sleep(0.2)
        return b"engine", {}

    def ask() -> None:
        engines.append(EngineCache(tmp_path).get_or_build(KEY, slow).blob)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engines == [b"engine"] * 3
    assert len(builds) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)

    def fail() -> tuple[bytes, dict[str, Any]]:
        raise BackendUnavailableError("unsupported")

    with pytest.raises(BackendUnavailableError, match="unsupported"):
        cache.get_or_build(KEY, fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="another cache directory"):
        EngineCache(tmp_path / "file" / "cache").get_or_build(KEY, builder())


def test_figures_can_be_added_without_touching_the_key(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.get_or_build(KEY, builder())
    cache.update_figures(KEY, {"chosen": "tensorrt"})
    found = cache.lookup(KEY)
    assert found is not None
    assert found.figures == {**FIGURES, "chosen": "tensorrt"}
    assert json.loads(sidecar_of(found.path).read_text())["key"] == dataclasses.asdict(KEY)

"""Ranges for profilers: named and nested as the work is, and no need of the package."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda import marks
from sbldm.engine.generator import Generator

from tests.support.host_device import HostDevice


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    marks._annotate.cache_clear()
    yield
    marks._annotate.cache_clear()


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
def test_a_run_is_marked(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Nvtx:
        @staticmethod
        @contextmanager
        def annotate(name: str, domain: str) -> Iterator[None]:
            told.append(f"{domain}: {name}")
            yield

    monkeypatch.setitem(sys.modules, "nvtx", Nvtx)
    with Generator(tiny_bundle, host_backend(tiny_bundle, HostDevice(kernel_folder)), batch_size=1) as generator:
        generator.sample(0, steps=1)
    assert told[-4:] == [
        "sbldm-engine: sampling queued",
        "sbldm-engine: decoding queued",
        "sbldm-engine: waiting for a batch",
        "sbldm-engine: small components",
    ]


def test_nvtx_takes_them_and_its_absence_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    nvtx = pytest.importorskip("nvtx")
    marks._annotate.cache_clear()
    with marks.marked("outer") as outer, marks.marked("inner"):
        assert isinstance(outer, nvtx.annotate)
    marks._annotate.cache_clear()
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with marks.marked("without") as nothing:
        assert nothing is None

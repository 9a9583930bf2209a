"""Fixtures that several folders share: a tiny system, its checkpoint and its bundle, exported for real."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from sbldm.engine.bundle.load import Bundle, load_bundle

if TYPE_CHECKING:
    from onnx import ModelProto
    from sbldm.export.components import Component

Trace: TypeAlias = "Callable[[Component, int, int], ModelProto]"


@pytest.fixture(scope="session", autouse=True)
def _no_pulled_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No bundle of whoever runs the tests is found by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBLDM_MODELS", str(tmp_path_factory.getbasetemp() / "no-models"))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny system lies; SBLDM_TINY names a folder that holds `checkpoint` and `bundle` already."""
    made = os.environ.get("SBLDM_TINY")
    return Path(made) if made else tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_folder: Path) -> Path:
    """Training directory of a tiny phantom system with random weights. Do not write to it."""
    from tests.support.tiny import write_tiny_checkpoint

    made = tiny_folder / "checkpoint"
    return made if made.is_dir() else write_tiny_checkpoint(made)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_folder: Path, tiny_checkpoint: Path, trace: Trace) -> Bundle:
    """Its bundle, through the real gate: 16x16x8 voxels, four modalities, three tissues. Do not write to it."""
    return tiny_export(tiny_checkpoint, tiny_folder / "bundle", trace)


@pytest.fixture(scope="session")
def tiny_mask_first_checkpoint(tiny_folder: Path) -> Path:
    """Training directory of a tiny mask-first system with random weights. Do not write to it."""
    from tests.support.tiny_mask_first import write_tiny_mask_first

    made = tiny_folder / "mask-first-checkpoint"
    return made if made.is_dir() else write_tiny_mask_first(made)


@pytest.fixture(scope="session")
def tiny_mask_first_bundle(tiny_folder: Path, tiny_mask_first_checkpoint: Path, trace: Trace) -> Bundle:
    """Its bundle, through the real gate: 32x32x16 voxels, slabs of 4 slices. Do not write to it."""
    return tiny_export(tiny_mask_first_checkpoint, tiny_folder / "mask-first-bundle", trace, opset=22)  # traced anyway


def tiny_export(checkpoint: Path, made: Path, trace: Trace, opset: int | None = None) -> Bundle:
    """The real export of a tiny system, its networks traced once a session; a bundle that is there is taken."""
    if made.is_dir():
        return load_bundle(made)
    from sbldm.export.bundle import ExportOptions, export_bundle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbldm.export.bundle.export_graph", trace)
        return export_bundle(checkpoint, made, ExportOptions(opset=opset))


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """`export_graph` that traces a network once a session, all its worker processes together."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"
    folder.mkdir(exist_ok=True)

    def traced(component: Component, depth: int, opset: int) -> ModelProto:
        from tests.support.graphs import export_graph_once

        return export_graph_once(folder, component, depth, opset)

    return traced


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    """Exports of this test take the graphs of networks that the session has traced before."""
    monkeypatch.setattr("sbldm.export.bundle.export_graph", trace)

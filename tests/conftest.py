"""Fixtures that several folders share: a tiny system, its checkpoint and its bundle, exported for real."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from onnx import ModelProto
    from sbldm.engine.bundle.load import Bundle
    from sbldm.export.components import Component

Trace: TypeAlias = "Callable[[Component, int, int], ModelProto]"
# Before a library is loaded that reads it: at these sizes one thread is faster than two, and far faster beside other
# work, because parallel loops end in barriers that spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("suite", deadline=None)  # of one example: a busy machine is no fault of it
settings.load_profile("suite")
TRACED_OPSET = 22  # carries every precision, so that tests of all of them share their graphs


@pytest.fixture(scope="session", autouse=True)
def _no_pulled_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No bundle of whoever runs the tests is found by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBLDM_MODELS", str(tmp_path_factory.getbasetemp() / "no-models"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _unequal_megabytes_are_not_compared_line_by_line() -> Iterator[None]:
    """As pytest does where these are set, to show how they differ: a test that fails would go on for hours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "BUILD_NUMBER"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made once a session, all its worker processes together; SBLDM_TINY names a folder that is kept."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder = Path(os.environ.get("SBLDM_TINY", shared))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(made: Path, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask for it makes, while others wait; it is there whole or not at all."""
    with FileLock(f"{made}.lock"):
        if not made.is_dir():
            partial = made.with_name(f"{made.name}.partial")
            make(partial)
            partial.rename(made)
    return made


@pytest.fixture(scope="session")
def tiny_checkpoint(shared_folder: Path) -> Path:
    """Training directory of a tiny phantom system with random weights. Do not write to it."""
    from tests.support.tiny import write_tiny_checkpoint

    return once(shared_folder / "checkpoint", write_tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_bundle(shared_folder: Path, tiny_checkpoint: Path, trace: Trace) -> Bundle:
    """Its bundle, through the real gate: 16x16x8 voxels, four modalities, three tissues. Do not write to it."""
    return tiny_export(tiny_checkpoint, shared_folder / "bundle", trace)


@pytest.fixture(scope="session")
def tiny_mask_first_checkpoint(shared_folder: Path) -> Path:
    """Training directory of a tiny mask-first system with random weights. Do not write to it."""
    from tests.support.tiny_mask_first import write_tiny_mask_first

    return once(shared_folder / "mask-first-checkpoint", write_tiny_mask_first)


@pytest.fixture(scope="session")
def tiny_mask_first_bundle(shared_folder: Path, tiny_mask_first_checkpoint: Path, trace: Trace) -> Bundle:
    """Its bundle, through the real gate: 32x32x16 voxels, slabs of 4 slices. Do not write to it."""
    return tiny_export(tiny_mask_first_checkpoint, shared_folder / "mask-first-bundle", trace)


def tiny_export(checkpoint: Path, made: Path, trace: Trace) -> Bundle:
    """The real export of a tiny system, once a session."""
    from sbldm.engine.bundle.load import load_bundle
    from sbldm.export.bundle import ExportOptions, export_bundle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbldm.export.bundle.export_graph", trace)
        return load_bundle(once(made, lambda out: export_bundle(checkpoint, out, ExportOptions(opset=TRACED_OPSET))))


@pytest.fixture(scope="session")
def phantom_cohort(shared_folder: Path) -> Path:
    """Phantoms 0 and 1 of seed 7, made by two worker processes. Do not write to it."""
    from sbldm.train.phantom import write_cohort

    return once(shared_folder / "phantoms", lambda out: write_cohort(out, 2, seed=7, workers=2))


@pytest.fixture(scope="session")
def trace(shared_folder: Path) -> Trace:
    """`export_graph` that traces a network once a session, all its worker processes together."""
    folder = shared_folder / "graphs"
    folder.mkdir(exist_ok=True)

    def traced(component: Component, depth: int, opset: int) -> ModelProto:
        from tests.support.graphs import export_graph_once

        return export_graph_once(folder, component, depth, opset)

    return traced


@pytest.fixture(scope="session")
def kernel_folder(shared_folder: Path) -> Path:
    """Where the session's kernels are compiled to for the CPU, once."""
    folder = shared_folder / "cpu-kernels"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    """Exports of this test take the graphs of networks that the session has traced before."""
    monkeypatch.setattr("sbldm.export.bundle.export_graph", trace)

"""Every component of every preset goes through NVIDIA's parser and builder, in every precision."""

from __future__ import annotations

from pathlib import Path

import pytest
from sbldm.engine.backends.tensorrt.build import BuildRequest, build_engine, load_flavour
from sbldm.export.onnx_graph import save
from sbldm.export.rewrite.precision import Precision, reduce_precision

from tests.export.conftest import ExportedPreset

pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize(
    ("capability", "precision"),
    [("80", "fp32"), ("120", "fp16"), ("89", "bf16")],
)
def test_presets_are_built(exported: ExportedPreset, tmp_path: Path, capability: str, precision: Precision) -> None:
    flavour = load_flavour("tensorrt_rtx")
    for name, model in exported.models.items():
        path = tmp_path / f"{name}.onnx"
        save(reduce_precision(model, precision), path)
        blob, _figures = build_engine(flavour, BuildRequest(path, 2, capability))
        assert len(blob) > 10_000

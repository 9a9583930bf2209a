"""A name is a shipped bundle's, a path is a path."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest
from onnx import helper
from sbldm.engine.bundle.load import Bundle, load_bundle, record_files
from sbldm.engine.bundle.manifest import MANIFEST_NAME
from sbldm.engine.bundle.pins import PINNED
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.onnx_sessions import fast_graph_name


def test_a_path_of_a_shipped_bundles_name_is_the_folder_here(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "phantom")
    monkeypatch.chdir(tmp_path)
    for given in (Path("phantom"), Path("./phantom"), "./phantom"):
        bundle = load_bundle(given)
        assert bundle.sha256 == tiny_bundle.sha256
        assert load_bundle(bundle.path).sha256 == tiny_bundle.sha256
    assert load_bundle("phantom").sha256 == PINNED["phantom"]


def test_the_graph_beside_a_component_for_a_cpu_is_looked_into(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """As the component's own: its weights may not be read from outside the bundle."""
    bundle = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    file = fast_graph_name(tiny_bundle.manifest.components["decoder"].file)
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    made = helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1])
    (bundle / file).write_bytes(helper.make_model(helper.make_graph([], "g", [], [made], [weight])).SerializeToString())
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    manifest["files"] = {name: asdict(record) for name, record in record_files(bundle).items()}
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError, match=f"{file}: .*secret"):
        load_bundle(bundle)

"""Mutated bundles: always a message of class InvalidInputError, never another exception or a crash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.bundle.manifest import MANIFEST_NAME
from sbldm.engine.bundle.report import report_text
from sbldm.engine.errors import InvalidInputError, SbldmError

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def put(copy: Path, name: str, data: bytes, sealed: bool) -> None:
    """Replace a file; `sealed` makes the manifest agree with it, as somebody with intent would."""
    (copy / name).write_bytes(data)
    if sealed:
        manifest = json.loads((copy / MANIFEST_NAME).read_text())
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (copy / MANIFEST_NAME).write_text(json.dumps(manifest))


def open_everything(path: Path) -> None:
    """What a run does with a bundle before its first sample."""
    bundle = load_bundle(path)
    report_text(bundle)
    backend = OnnxRuntimeBackend(bundle, "cpu", 1)
    for component in bundle.manifest.components:
        backend.session(component)


@pytest.mark.parametrize("name", ["denoiser.onnx", "parity.json", "README.md", MANIFEST_NAME])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: path.write_bytes(path.read_bytes() + b" x"),
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    ],
)
def test_damaged_files_are_refused_by_name(copy: Path, name: str, damage: Callable[[Path], Any]) -> None:
    damage(copy / name)
    with pytest.raises(InvalidInputError, match=name.replace(".", r"\.")):
        load_bundle(copy)


def test_unlisted_files_are_refused(copy: Path) -> None:
    (copy / "extra.pkl").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=r"extra\.pkl: not listed"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/../../outside", "..\\outside.onnx", "", "."])
def test_paths_may_not_leave_the_bundle(copy: Path, name: str) -> None:
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["files"][name] = manifest["files"].pop("denoiser.onnx")
    manifest["components"]["denoiser"]["file"] = name
    (copy / "denoiser.onnx").replace(copy.parent / "outside.onnx")
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError):
        load_bundle(copy)


@FUZZ
@given(position=st.integers(0, 10**9), bit=st.integers(0, 7), sealed=st.booleans())
def test_flipped_bits_end_in_a_message(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, position: int, bit: int, sealed: bool
) -> None:
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("flip") / "bundle"))
    data = bytearray((copy / "aggregator.onnx").read_bytes())
    data[position % len(data)] ^= 1 << bit
    put(copy, "aggregator.onnx", bytes(data), sealed)
    if not sealed:
        with pytest.raises(InvalidInputError, match="sha256 differs"):
            load_bundle(copy)
    with contextlib.suppress(SbldmError):  # a flipped weight may well load; anything but a message fails
        open_everything(copy)


def test_a_damaged_name_ends_in_a_message(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime quotes it, and its binding cannot decode that."""
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    data = bytearray((copy / "decoder.onnx").read_bytes())
    name = onnx.load_from_string(bytes(data)).graph.initializer[0].name
    data[data.find(name.encode())] |= 0x80
    put(copy, "decoder.onnx", bytes(data), True)
    with pytest.raises(InvalidInputError, match=r"decoder\.onnx"):
        open_everything(copy)


@FUZZ
@given(data=st.data(), value=JSON_VALUES)
def test_manifests_with_a_strange_value_end_in_a_message(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: Any
) -> None:
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("manifest") / "bundle"))
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(min(len(place), 3)))
        key = data.draw(st.sampled_from(keys))
        deeper = place[key]
        if not isinstance(deeper, dict | list) or not deeper or data.draw(st.booleans()):
            break
        place = deeper
    place[key] = value
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    with contextlib.suppress(InvalidInputError):
        assert report_text(load_bundle(copy))


@pytest.mark.parametrize("dims", [[1 << 40, 1 << 40], [-1], [2**62]])
def test_huge_tensors_are_refused_before_allocation(copy: Path, dims: list[int]) -> None:
    model = onnx.load(copy / "decoder.onnx")
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    put(copy, "decoder.onnx", model.SerializeToString(), sealed=True)
    with pytest.raises(InvalidInputError, match=r"decoder\.onnx"):
        open_everything(copy)


def test_external_data_outside_the_bundle_is_refused(copy: Path) -> None:
    (copy.parent / "secret.bin").write_bytes(np.zeros(1 << 16, np.float32).tobytes())
    model = onnx.load(copy / "decoder.onnx")
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    put(copy, "decoder.onnx", model.SerializeToString(), sealed=True)
    with pytest.raises(InvalidInputError, match=r"decoder\.onnx"):
        open_everything(copy)


NOT_UTF8 = "\ud800".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"[" * 200_000, b'{"schema_version": 99}', NOT_UTF8])
def test_other_manifests_are_refused(copy: Path, text: bytes) -> None:
    (copy / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(InvalidInputError, match=r"bundle\.json"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"components": 3}', b'{"components": [{}]}', b'{"volume": {"dice": []}}']
)
def test_other_parity_reports_are_refused(copy: Path, text: bytes) -> None:
    put(copy, "parity.json", text, sealed=True)
    with pytest.raises(InvalidInputError, match=r"parity\.json"):
        open_everything(copy)

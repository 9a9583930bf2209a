"""The scan of ONNX files: sound files pass, damaged or reaching ones are refused with a message."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sbldm.engine.bundle.onnx_scan import check_onnx_file
from sbldm.engine.errors import InvalidInputError


def small_model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones((1,), np.float32)))
    nodes = [constant, helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Add", ["y", "c"], ["z"])]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, 4, 4])
        for name, channels in (("x", 1), ("z", 2))
    ]
    return helper.make_model(helper.make_graph(nodes, "g", tensors[:1], tensors[1:], [weight]))


SOUND = small_model().SerializeToString()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(data)
    return path


def test_a_sound_file_passes(tmp_path: Path) -> None:
    check_onnx_file(written(tmp_path, SOUND))


@pytest.mark.parametrize("place", ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "..\\weights.bin", ""])
def test_external_data_outside_the_folder_is_refused(place: str, tmp_path: Path) -> None:
    model = small_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    with pytest.raises(InvalidInputError, match=r"'w' keeps its data at .* outside the bundle"):
        check_onnx_file(written(tmp_path, model.SerializeToString()))


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    model = small_model()
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    folder = tmp_path / "bundle"
    folder.mkdir()
    path = written(folder, model.SerializeToString())
    with pytest.raises(InvalidInputError, match="missing"):
        check_onnx_file(path)
    (tmp_path / "outside.bin").write_bytes(b"x")
    (folder / "weights.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(InvalidInputError, match="outside the bundle"):
        check_onnx_file(path)


@pytest.mark.parametrize("dims", [[1 << 20, 1 << 20], [-1, 3], [3]])
def test_shapes_that_do_not_fit_their_data_are_refused(dims: list[int], tmp_path: Path) -> None:
    model = small_model()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    with pytest.raises(InvalidInputError, match="tensor 'w' claims"):
        check_onnx_file(written(tmp_path, model.SerializeToString()))


@pytest.mark.parametrize("cut", [0, 1, 10, len(SOUND) // 2, len(SOUND) - 1])
def test_truncated_files_are_refused(cut: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"m\.onnx"):
        check_onnx_file(written(tmp_path, SOUND[:cut]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255))))
def test_any_bytes_end_in_a_verdict(tmp_path: Path, change: bytes | tuple[int, int]) -> None:
    data = change if isinstance(change, bytes) else SOUND[: change[0]] + bytes([change[1]]) + SOUND[change[0] + 1 :]
    path = written(tmp_path, data)
    with contextlib.suppress(InvalidInputError):  # whatever else comes out fails the test
        check_onnx_file(path)

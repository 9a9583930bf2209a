"""The Triton repository: configurations by Triton's own definitions, the Python model as the server calls it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.generator import Generator
from sbldm.export.triton import write_triton_repository


@pytest.fixture(scope="module")
def repository(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("triton") / "models"
    write_triton_repository(tiny_bundle, found, batch=4)
    return found


def module_of(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def definitions() -> Any:
    """`model_config_pb2`, without the client around it, which needs more packages."""
    try:
        files = importlib.metadata.files("tritonclient") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tritonclient is not installed")
    path = next(file for file in files if file.parts[-2:] == ("grpc", "model_config_pb2.py"))
    return module_of("model_config_pb2", Path(str(path.locate())))


def test_every_configuration_is_one_of_tritons(repository: Path, tiny_bundle: Bundle, definitions: Any) -> None:
    from google.protobuf import text_format

    configs = {
        path.parent.name: text_format.Parse(path.read_text(), definitions.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }
    assert set(configs) == {"sbldm_generate", *(f"sbldm_{name}" for name in tiny_bundle.manifest.components)}
    for name, config in configs.items():
        assert config.name == name
    whole = configs["sbldm_generate"]
    assert (whole.backend, whole.max_batch_size) == ("python", 0)
    volume = list(tiny_bundle.manifest.grid.shape)
    kinds = definitions.DataType
    outputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in whole.output}
    for modality in tiny_bundle.manifest.modalities:
        assert outputs[modality] == (kinds.TYPE_INT16, volume)
    assert outputs["mask"] == (kinds.TYPE_UINT8, volume)
    assert {tensor.name: tensor.data_type for tensor in whole.input} == {
        "condition": kinds.TYPE_STRING,
        "seed": kinds.TYPE_INT64,
        "sample": kinds.TYPE_INT64,
    }
    denoiser = configs["sbldm_denoiser"]
    timestep = next(tensor for tensor in denoiser.input if tensor.name == "timestep")
    assert (denoiser.max_batch_size, list(timestep.dims), list(timestep.reshape.shape)) == (4, [1], [])


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> np.ndarray:
        return self.values


def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton puts beside a model of its Python backend."""
    utilities = SimpleNamespace(
        Tensor=Tensor,
        TritonError=lambda text: SimpleNamespace(text=text),
        TritonModelException=RuntimeError,
        InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(tensors=output_tensors, error=error),
        get_input_tensor_by_name=lambda request, name: Tensor(name, request[name]),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)


def arguments(repository: Path, definitions: Any, kind: str = "CPU") -> dict[str, str]:
    """What the server gives an instance; the configuration as it reads it."""
    from google.protobuf import json_format, text_format

    folder = repository / "sbldm_generate"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), definitions.ModelConfig())
    return {
        "model_config": json_format.MessageToJson(config, preserving_proto_field_name=True),
        "model_instance_kind": kind,
        "model_instance_device_id": "0",
        "model_repository": str(folder),
        "model_version": "1",
        "model_name": "sbldm_generate",
    }


def asked(condition: str, sample: int) -> dict[str, np.ndarray]:
    return {
        "condition": np.array([condition.encode()], dtype=object),
        "seed": np.array([5]),
        "sample": np.array([sample]),
    }


def test_a_request_is_the_sample_that_generate_makes(
    repository: Path, tiny_bundle: Bundle, definitions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused requests are answered in words, and the others of their batch are made."""
    server(monkeypatch)
    folder = repository / "sbldm_generate" / "1"
    assert load_bundle(folder / "bundle").sha256 == tiny_bundle.sha256
    model = module_of("model", folder / "model.py").TritonPythonModel()
    model.initialize(arguments(repository, definitions))
    row = {"volume_ml": 20, "x": 0.4}
    requests = [asked(json.dumps(row), 1), asked('{"volume_ml": -3}', 0), asked("[]", 0), asked("{", 0)]
    good, *bad = model.execute(requests)
    assert good.error is None
    with Generator.load(tiny_bundle.path, backend="onnxruntime") as generator:
        wanted = generator.sample(1, conditions=[row], seed=5)
    made = {tensor.name: tensor.values for tensor in good.tensors}
    for modality, image in zip(wanted.modalities, wanted.image, strict=True):
        np.testing.assert_array_equal(made[modality], image)
    np.testing.assert_array_equal(made["mask"], wanted.label)
    assert json.loads(made["measured"][0])["volume_ml"] == wanted.measured.volume_ml
    for response, words in zip(bad, ("volume_ml", "must be a JSON object", "no JSON"), strict=True):
        assert words in response.error.text
        assert not response.tensors
    model.finalize()


def test_an_instance_that_cannot_run_here_is_not_loaded(
    repository: Path, definitions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is here")
    server(monkeypatch)
    model = module_of("model", repository / "sbldm_generate" / "1" / "model.py").TritonPythonModel()
    with pytest.raises(RuntimeError, match="no CUDA provider"):
        model.initialize(arguments(repository, definitions, "GPU"))

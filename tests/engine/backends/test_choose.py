"""Which backend is chosen, and that nothing is taken silently in another's place."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.backends.selection import Choice, choice_path, store_choice, stored_choice
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.doctor import diagnose
from sbldm.engine.errors import BackendUnavailableError, InvalidInputError, UsageError

FASTER = Choice("openvino", "fp32", "2026-01-02", {"denoiser": {"openvino:fp32": 0.1}})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_auto_is_the_embedded_onnx_runtime(tiny_bundle: Bundle) -> None:
    backend = choose_backend(tiny_bundle)
    assert (backend.name, backend.device, backend.precision) == ("onnxruntime", "cpu", "fp32")
    assert backend.threads >= 1


def test_auto_follows_a_measured_choice_of_this_very_machine_and_bundle(tiny_bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    store_choice(tiny_bundle, 1, FASTER)
    assert stored_choice(tiny_bundle, 1) == FASTER
    assert choose_backend(tiny_bundle, threads=1).name == "openvino"
    assert choose_backend(tiny_bundle, threads=3).name == "onnxruntime"
    other = dataclasses.replace(tiny_bundle, sha256="0" * 64)
    assert choose_backend(other, threads=1).name == "onnxruntime"
    assert choose_backend(tiny_bundle, "onnxruntime", threads=1).name == "onnxruntime"


def test_auto_without_openvino_stays_with_onnx_runtime(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    store_choice(tiny_bundle, 1, FASTER)
    monkeypatch.setattr("sbldm.engine.backends.selection.installed", lambda name: None if name == "openvino" else "1")
    assert choose_backend(tiny_bundle, threads=1).name == "onnxruntime"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"backend": 1}', b"\xff"])
def test_a_damaged_choice_counts_as_none(tiny_bundle: Bundle, content: bytes) -> None:
    path = choice_path(tiny_bundle, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert stored_choice(tiny_bundle, 1) is None
    assert choose_backend(tiny_bundle, threads=1).name == "onnxruntime"


def test_the_choice_is_readable(tiny_bundle: Bundle) -> None:
    assert json.loads(store_choice(tiny_bundle, 1, FASTER).read_text())["backend"] == "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "torch"}, "allowed auto, onnxruntime"),
        ({"device": "tpu"}, "--device tpu: allowed"),
        ({"device": "cuda:x"}, "--device cuda:x: allowed"),
        ({"device": "cuda:"}, "--device cuda:: allowed"),
        ({"device": "cpu:1"}, "--device cpu:1: allowed"),
        ({"precision": "int4"}, "this bundle holds fp32"),
        ({"name": "tensorrt", "device": "cpu"}, "NVIDIA GPU"),
        ({"name": "tensorrt", "precision": "fp8"}, "holds fp32, tf32 for tensorrt"),
    ],
)
def test_combinations_that_nothing_offers(tiny_bundle: Bundle, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_backend(tiny_bundle, **options)


def test_cuda_is_refused_where_it_cannot_run(tiny_bundle: Bundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is here")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(BackendUnavailableError, match="no CUDA provider"):
            choose_backend(tiny_bundle, device=device)


def test_onnx_runtime_missing_names_the_extra(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r"sbldm-engine\[cpu\]"):
        choose_backend(tiny_bundle)
    diagnosis = diagnose(tiny_bundle)
    assert diagnosis.choice.startswith("none: ")


def test_a_damaged_graph_names_its_file(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "aggregator.onnx").write_bytes(b"\x08\x01garbage")
    broken = dataclasses.replace(tiny_bundle, path=tmp_path)
    latent = {"latent": np.zeros((1, *tiny_bundle.manifest.latent.shape), np.float32)}
    for name in ("onnxruntime", "openvino"):
        if name == "openvino":
            pytest.importorskip("openvino")
        with pytest.raises(InvalidInputError, match=r"aggregator\.onnx"):
            choose_backend(broken, name, threads=1).run("aggregator", latent)


def test_doctor_tells_what_auto_takes_and_why(tiny_bundle: Bundle) -> None:
    diagnosis = diagnose(tiny_bundle)
    assert diagnosis.choice.startswith("onnxruntime on cpu, fp32")
    assert "bench --select" in diagnosis.choice
    found = {(finding.backend, finding.device): finding for finding in diagnosis.findings}
    assert found["onnxruntime", "cpu"].usable
    store_choice(tiny_bundle, diagnosis.threads, dataclasses.replace(FASTER, backend="onnxruntime"))
    assert "2026-01-02" in diagnose(tiny_bundle).choice

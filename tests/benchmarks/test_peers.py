"""Peers and the measured choice on a tiny system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.benchmarks import choice
from sbldm.benchmarks.bench import ComponentFigure, start
from sbldm.benchmarks.machine import FmaPeak, Machine
from sbldm.benchmarks.plan import make_plan
from sbldm.benchmarks.timing import Run, summarise
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle

peers = pytest.importorskip("sbldm.benchmarks.peers")


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("a CPU", 1, 1.0, False, None, FmaPeak(None, "test"))
    monkeypatch.setattr(peers, "describe_machine", lambda: machine)


def test_all_means_give_the_same_volume(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.compile", lambda module: module)  # compiling takes minutes and proves nothing here
    out = tmp_path / "peers.json"
    options = ["--checkpoint", str(tiny_checkpoint), "--bundle", str(tiny_bundle.path), "--steps", "4"]
    code = peers.main([*options, "--repeats", "1", "--published-steps", "0", "--json", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    figures = json.loads(printed.out.splitlines()[-1])
    assert json.loads(out.read_text()) == figures
    rows = {row["peer"]: row for row in figures["peers"]}
    assert len(rows) >= 7
    assert rows["onnxruntime fp32"]["psnr_db"] is None
    for name, row in rows.items():
        limit = 25 if "bf16" in name or "DPM" in name else 60
        assert row["psnr_db"] is None or row["psnr_db"] > limit, name
    assert figures["published"] is None


def test_a_checkpoint_that_is_not_there(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(tmp_path / "none"), "--bundle", str(tiny_bundle.path), "--published-steps", "0"]
    assert peers.main(options) == 3
    assert "none" in capsys.readouterr().err


def test_the_published_path_is_a_sum_of_measured_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    path = object.__new__(peers.PublishedPath)
    seconds = {"denoiser": 0.5, "aggregator": 0.2, "decoder": 20.0}
    path.calls = {name: [Run(value, 0.0)] for name, value in seconds.items()}
    assert path.seconds()["volume"] == pytest.approx(50 * 0.5 + 0.2 + 20.0)


@pytest.mark.parametrize(
    ("openvino", "expected"),
    [
        ({"denoiser": 0.05, "aggregator": 0.001, "decoder": 0.05, "refiner": 0.1}, "openvino"),
        ({"denoiser": 0.05, "aggregator": 0.01, "decoder": 0.3, "refiner": 0.5}, "openvino-denoiser"),
        ({"denoiser": 0.2, "aggregator": 0.01, "decoder": 0.05, "refiner": 0.1}, "openvino-decoder-refiner"),
        ({"denoiser": 0.2, "aggregator": 0.01, "decoder": 0.3, "refiner": 0.5}, "onnxruntime"),
    ],
)
def test_the_choice_is_made_a_component_at_a_time(
    tiny_bundle: Bundle, openvino: dict[str, float], expected: str
) -> None:
    pytest.importorskip("openvino")
    embedded = {"denoiser": 0.1, "aggregator": 0.002, "decoder": 0.2, "refiner": 0.4}
    calls = {"denoiser": tiny_bundle.manifest.defaults.steps, "aggregator": 1, "decoder": 1, "refiner": 1}
    names = {"onnxruntime": embedded, "openvino:fp32": openvino}
    plan = make_plan(
        tiny_bundle, backends=",".join(names), steps="5", samplers="ddim", batches="1",
        volumes=1, repeats=1, reference_steps=5,
    )  # fmt: skip
    result = start(tiny_bundle, plan)
    for component in embedded:  # by turns, as they are measured
        for backend, seconds in names.items():
            timing = summarise([Run(seconds[component], 0.0)])
            result.components.append(ComponentFigure(backend, component, timing, None, None, calls[component]))
    backends = {spelled: choose_backend(tiny_bundle, spelled.partition(":")[0], "cpu", "fp32", 1) for spelled in names}
    chosen = choice.choose(tiny_bundle, backends, result)
    assert (chosen.backend, chosen.precision) == (expected, "fp32")
    assert choose_backend(tiny_bundle, chosen.backend, "auto", chosen.precision, 1).name == expected

"""Peers and the measured choice on a tiny system."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sbldm.benchmarks import choice, plan
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


def run(checkpoint: Path, bundle: Bundle, *options: str) -> int:
    given = ["--checkpoint", str(checkpoint), "--bundle", str(bundle.path), "--published-steps", "0"]
    return peers.main([*given, "--repeats", "1", *options])


@pytest.mark.parametrize("form", ["slices", "mask-first"])
def test_all_means_give_the_same_volume(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    prefix = "tiny_" if form == "slices" else "tiny_mask_first_"
    bundle, checkpoint = (request.getfixturevalue(prefix + what) for what in ("bundle", "checkpoint"))
    monkeypatch.setattr("torch.compile", lambda module: module)  # compiling takes minutes and proves nothing here
    monkeypatch.setattr(peers, "has_bf16", lambda: True)
    monkeypatch.setattr(peers, "timed", lambda _volume: Run(1.0, 0.0))  # the first volumes are what is compared
    first, *others = peers.proof_requests(bundle, 4)  # maps of random weights lead the first's mask astray by rounding
    asked = replace(first, condition=others[0].condition, wanted=others[0].wanted)
    monkeypatch.setattr(peers, "proof_requests", lambda _bundle, _count: [asked])
    out = tmp_path / "peers.json"
    assert run(checkpoint, bundle, "--steps", "2", "--json", str(out)) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert json.loads(out.read_text()) == figures
    assert (figures["sampler"], figures["steps"], figures["absent"]) == ("ddim", 2, {})
    rows = {row["peer"]: row for row in figures["peers"]}
    assert len(rows) == len(plan.default_backends("cpu")) + (7 if form == "slices" else 6)
    assert rows["onnxruntime fp32"]["psnr_db"] is None
    for name, row in rows.items():
        limit = 25 if "bf16" in name or "DPM" in name else 60
        assert row["psnr_db"] is None or row["psnr_db"] > limit, name
        assert row["worst_dice"] > (0.5 if "bf16" in name or "DPM" in name else 0.99), name
    assert figures["published"] is None


def test_a_peer_that_does_not_run_here_is_told(
    tiny_bundle: Bundle, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    def refuse(**_: object) -> None:
        raise InvalidCxxCompiler

    few = ("onnxruntime fp32", "PyTorch bf16 autocast", "torch.compile fp32")
    every = peers.peers_of
    monkeypatch.setattr(peers, "peers_of", lambda *given: [peer for peer in every(*given) if peer.name in few])
    monkeypatch.setattr("torch.compile", lambda _module: refuse)
    monkeypatch.setattr(peers, "has_bf16", lambda: False)
    assert run(tiny_checkpoint, tiny_bundle) == 0
    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])
    assert [row["peer"] for row in figures["peers"]] == ["onnxruntime fp32"]
    assert "no bfloat16 arithmetic" in figures["absent"]["PyTorch bf16 autocast"]
    assert "C++ compiler" in figures["absent"]["torch.compile fp32"]
    assert "torch.compile fp32: does not run here: " in printed
    defaults = tiny_bundle.manifest.defaults
    assert (figures["sampler"], figures["steps"]) == (defaults.sampler, defaults.steps)


def test_a_checkpoint_of_another_form(
    tiny_bundle: Bundle, tiny_mask_first_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_mask_first_checkpoint, tiny_bundle) == 3
    assert "is of the form mask-first, the bundle" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none", tiny_bundle) == 3
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
    asked = make_plan(
        tiny_bundle, backends=",".join(names), steps="5", samplers="ddim", batches="1",
        volumes=1, repeats=1, reference_steps=5,
    )  # fmt: skip
    result = start(tiny_bundle, asked)
    for component in embedded:  # by turns, as they are measured
        for backend, seconds in names.items():
            timing = summarise([Run(seconds[component], 0.0)])
            result.components.append(ComponentFigure(backend, component, timing, None, None, calls[component]))
    backends = {spelled: choose_backend(tiny_bundle, spelled.partition(":")[0], "cpu", "fp32", 1) for spelled in names}
    chosen = choice.choose(tiny_bundle, backends, result)
    assert (chosen.backend, chosen.precision) == (expected, "fp32")
    assert choose_backend(tiny_bundle, chosen.backend, "auto", chosen.precision, 1).name == expected

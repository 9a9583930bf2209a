"""Few steps beside many: the tables of both stages."""

from __future__ import annotations

import dataclasses

import pytest
from sbldm.benchmarks import few_steps
from sbldm.benchmarks.few_steps import main, tables
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.bundle.manifest import FittedSteps, SamplingDefaults


def test_every_sampling_of_both_stages_is_held_to_the_many(
    tiny_mask_first_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = SamplingDefaults("ddim", 4, 0.0, 1.0)
    monkeypatch.setattr(few_steps, "MANY", many)
    monkeypatch.setattr(few_steps, "USUAL", [many])
    manifest = tiny_mask_first_bundle.manifest
    assert manifest.mask_first is not None
    fitted = (FittedSteps((999,), ((0.5, 0.5, 0.0),)),)
    schedule = dataclasses.replace(manifest.schedule, fitted=fitted)
    bundle = dataclasses.replace(tiny_mask_first_bundle, manifest=dataclasses.replace(manifest, schedule=schedule))
    lines: list[str] = []
    form = dataclasses.replace(manifest.mask_first, fitted=fitted)
    tables(bundle, form, 1, OnnxRuntimeBackend(bundle, "cpu", 1).run, lines.append)
    masks, rows = lines[: lines.index(next(line for line in lines if "| images |" in line))], lines[-2:]
    assert [row.split(" | ")[:2] for row in masks[1:3]] == [["| ddim 4", "1.000 1.000 1.000"]] * 2
    assert masks[3].startswith("| fitted 1 | ")
    assert masks[3].split(" | ")[1] != "1.000 1.000 1.000"
    assert rows[0].startswith("| ddim 4 | 180.0 dB | 1.000 1.000 1.000 1.000 |")
    assert rows[1].startswith("| fitted 1 | ")
    assert float(rows[1].split(" | ")[1].removesuffix(" dB")) < 100


def test_a_bundle_of_slices_is_refused(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", str(tiny_bundle.path)])
    assert "mask-first" in capsys.readouterr().err

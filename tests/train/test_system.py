"""Both papers' systems at reduced width: one epoch on two phantoms by the command line, then a sample."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sbldm.cli.main import main
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.conditions.columns import normalise
from sbldm.train.condition_file import load_conditions
from sbldm.train.config import SystemConfig, config_to_json
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.diffusion import make_schedule
from sbldm.train.logbook import read_metrics
from sbldm.train.previews import Previews
from sbldm.train.trained import load_networks
from torch import device

from tests.support.tiny import tiny_system_config

CASES, SLICES = 2, 16
BATCH = {"autoencoder": 16, "aggregator": 2, "denoiser": 2, "refiner": 1}
EPOCH = {
    "autoencoder": CASES * SLICES // BATCH["autoencoder"],
    **{stage: CASES // BATCH[stage] for stage in ("aggregator", "denoiser", "refiner")},
}


def reduced(preset: str) -> SystemConfig:
    """Narrow networks on a coarse grid, trained for one epoch."""
    config = tiny_system_config(preset)
    stages = {
        name: dataclasses.replace(stage, batch_size=BATCH[name], steps=EPOCH[name])
        for name, stage in config.stages.items()
    }
    return dataclasses.replace(config, stages=stages, grid=Grid((32, 32, SLICES), (6.0, 6.0, 9.6)))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["isbi2024", "cmig2025"])
def test_a_papers_system_trains_for_an_epoch_and_samples(
    preset: str, phantom_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, cache = reduced(preset), tmp_path / "out", tmp_path / "cache"
    file = tmp_path / "reduced.yaml"
    plain = json.loads(json.dumps(config_to_json(config)))  # tuples become lists
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    command = ["train", "--data", str(phantom_cohort), "--out", str(out), "--cache", str(cache), "--preset", str(file)]
    command += ["--precision", "32-true", "--workers", "1"]
    assert main(command) == 0, capsys.readouterr().err

    trained = {name for name in config.stages if name != "aggregator" or config.aggregator.kind == "mosaic"}
    metrics = read_metrics(out)
    assert metrics.keys() == trained
    for stage in trained:
        assert max(metrics[stage]) == EPOCH[stage] - 1
        assert all(np.isfinite(list(values.values())).all() for values in metrics[stage].values())
        assert list((out / "tensorboard" / stage).iterdir())
        if stage != "aggregator":
            last = Image.open(out / "previews" / f"{stage}-{EPOCH[stage]:06d}.png")
            assert np.unique(np.asarray(last)).size > 16

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before

    networks, (columns, _) = load_networks(out, config), load_conditions(out)
    cohort = prepare_cohort(phantom_cohort, cache, config.grid, modalities=config.modalities)
    condition = normalise(cohort.conditions[:1, : len(columns)], columns)[0]
    previews = Previews(config, cohort, device("cpu"))
    names = ("denoiser", "aggregator", "decoder")
    sampled = previews.sample(*(networks[n] for n in names), make_schedule(config.schedule), condition, 3)  # type: ignore[arg-type]
    assert sampled.shape[2] == 3
    again = previews.sample(*(networks[n] for n in names), make_schedule(config.schedule), condition, 3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(sampled, again)

    capsys.readouterr()
    assert main([*command, "--held-out", "1"]) == 3
    assert "another cohort" in capsys.readouterr().err

    kept = (out / "system.json").read_bytes()
    other = {**plain, "denoiser": {**plain["denoiser"], "time_width": 2 * plain["denoiser"]["time_width"]}}
    file.write_text(yaml.safe_dump(other), encoding="utf-8")
    assert main(command) == 3
    assert "another denoiser" in capsys.readouterr().err
    assert (out / "system.json").read_bytes() == kept

"""Presets and what is refused in a configuration."""

from __future__ import annotations

from itertools import pairwise

import pytest
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.train.config import PRESETS, config_from_json, config_to_json, load_preset, parse_config
from sbldm.train.run import plan, with_steps


@pytest.mark.parametrize("preset", ["phantom", "isbi2024", "cmig2025"])
def test_presets_load_and_survive_json(preset: str) -> None:
    config = load_preset(preset)
    assert config_from_json(config_to_json(config), "copy") == config
    assert config.vae.factor == 8


def test_the_papers_numbers() -> None:
    isbi, cmig = load_preset("isbi2024"), load_preset("cmig2025")
    assert isbi.grid.shape == (192, 192, 96)
    assert isbi.vae.widths == cmig.vae.widths == (128, 256, 384, 512)
    assert isbi.denoiser.widths == cmig.denoiser.widths == (64, 128, 256, 512)
    assert (isbi.denoiser.time_width, isbi.denoiser.condition_width) == (512, 256)
    assert (isbi.schedule.beta_start, isbi.schedule.beta_end) == (0.002, 0.02)
    assert (isbi.sampling.steps, isbi.sampling.eta) == (50, 1.0)
    assert isbi.refiner is None
    assert cmig.aggregator.kind == "mosaic"
    assert cmig.aggregator.widths == (128, 256)


def test_unknown_preset_names_the_shipped_ones() -> None:
    with pytest.raises(InvalidInputError, match="cmig2025, isbi2024, phantom"):
        load_preset("brats")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("shape: [128, 128, 64]", "shape: [100, 128, 64]"), "divisible by the autoencoder's factor 8"),
        (("unshuffle: 2", "unshufle: 2"), "'unshuffle' is missing"),
        (("condition_dropout: 0.1", "condition_dropout: often"), "must be a number"),
        (("kind: stack", "kind: pile"), "one of stack, mosaic"),
        (("preset: phantom", "preset: [phantom"), "not valid YAML"),
        (
            ("shells: [[ncr_share", "shells: [[core_share"),
            "allowed: ed_share, et_share, ncr_share",
        ),
        (("distill: {", "distil: {"), "stages.distill is missing"),
        (("ellipsoid: true", "ellipsoid: false"), "set denoiser.ellipsoid to true"),
    ],
)
def test_faults_are_named(change: tuple[str, str], message: str) -> None:
    text = (PRESETS / "phantom.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    with pytest.raises(InvalidInputError, match=message):
        parse_config(text.replace(*change), "test.yaml")


def test_plan_names_stages_and_overridden_steps() -> None:
    text = plan(with_steps(load_preset("phantom"), ["denoiser=7"]), "all")
    assert "stage denoiser: 7 steps" in text
    assert "stage refiner" in text


@pytest.mark.parametrize("preset", ["phantom", "isbi2024", "cmig2025"])
def test_plan_says_what_networks_and_stages_cost(preset: str) -> None:
    lines = plan(load_preset(preset), "all").splitlines()
    costs = {line.split()[0]: line for line in lines if "GMAC a" in line}
    assert {"encoder", "decoder", "aggregator", "denoiser"} <= costs.keys()
    assert costs["decoder"].endswith("a slice")
    assert costs["denoiser"].endswith("a volume")
    trained = [line for line, below in pairwise(lines) if line.startswith("stage") and "GiB in float32" in below]
    assert len(trained) == {"phantom": 4, "isbi2024": 2, "cmig2025": 4}[preset]
    if preset == "cmig2025":
        assert "48.33 M parameters     96.11 GMAC" in costs["denoiser"]


@pytest.mark.parametrize("override", ["denoiser", "denoiser=0", "denoiser=x", "decoder=3"])
def test_bad_step_overrides_are_refused(override: str) -> None:
    with pytest.raises(UsageError, match="STAGE=N"):
        with_steps(load_preset("phantom"), [override])

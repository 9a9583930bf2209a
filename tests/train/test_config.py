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
    with pytest.raises(InvalidInputError, match="cmig2025, glioma, isbi2024, phantom"):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rate: 0.001, warmup_steps: 100, weight_decay: 0.0", "rate: 0.001, warmup_steps: 0, weight_decay: 0.0"),
         "stages.autoencoder.warmup_steps: is 0, must be at least 1"),
        (("batch_size: 16", "batch_size: 0"), "stages.autoencoder.batch_size: is 0, must be from 1 to 65536"),
        (("ema_decay: 0.998", "ema_decay: 2.0"), "stages.autoencoder.ema_decay: is 2, must be at least 0 and below 1"),
        (("ema_decay: 0.998", "ema_decay: -1.0"), "stages.autoencoder.ema_decay: is -1"),
        (("learning_rate: 0.0005", "learning_rate: -0.0005"), "stages.refiner.learning_rate: is -0.0005"),
        (("groups: 16", "groups: 5"), "vae.groups: is 5, must divide the last of vae.widths"),
        (("kind: stack", "kind: mosaic"), None),
        (("kind: stack, widths: [128, 256]", "kind: mosaic, widths: [0, 256]"), r"aggregator.widths\[0\]: is 0"),
        (("shape: [128, 128, 64]", "shape: [128, 128, 66]"), "each side must be divisible by 4"),
        (("[t1, t1ce", "[pd, t1ce"), "modalities: unknown 'pd'; allowed: t1, t1ce, t2, flair"),
        (("[t1, t1ce", "[t1, t1"), "modalities: are t1, t1, t2, flair, must be one or more, each once"),
        (("[ncr, ed, et]", "[ncr, ed, et, ventricle]"), "tissues: are ncr, ed, et, ventricle"),
        (("spacing_mm: [1.5", "spacing_mm: [0.0"), r"grid.spacing_mm\[0\]: is 0, must be from 0.1 to 20"),
        (("beta_end: 0.02", "beta_end: 2.0"), "schedule.beta_end: is 2, must be above 0 and below 1"),
        (("beta_start: 0.002", "beta_start: 0.2"), "schedule.beta_end: is 0.02, must be at least beta_start"),
        (("condition_dropout: 0.1", "condition_dropout: 5"), "condition_dropout: is 5"),
        (("tumour_share: 0.5", "tumour_share: 2.0"), "autoencoder_loss.tumour_share: is 2, must be from 0 to 1"),
        (("{guidance: 2.0}", "{guidance: .nan}"), "must be a finite number"),
        (("steps: 10, eta", "steps: 2000, eta"), r"sampling.steps: is 2000, must be from 1 to schedule.steps \(1000\)"),
        (("v_prediction", "epsilon"), "schedule.prediction_type: is epsilon"),
        (("ddim, steps: 10, eta: 0.0", "dpmpp-2m, steps: 10, eta: 0.5"), "sampling.eta: is 0.5, must be 0"),
        (("  refiner: {steps", "  refine: {steps"), "stages: unknown 'refine'; allowed: autoencoder"),
    ],
)  # fmt: skip
def test_values_that_people_write_are_refused_before_data_are_read(
    change: tuple[str, str], message: str | None
) -> None:
    text = (PRESETS / "phantom.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    if message is None:  # 64 slices are a square number of tiles
        parse_config(text.replace(*change), "test.yaml")
        return
    with pytest.raises(InvalidInputError, match=message):
        parse_config(text.replace(*change), "test.yaml")


def test_all_faults_are_told_at_once() -> None:
    text = (PRESETS / "phantom.yaml").read_text(encoding="utf-8")
    text = text.replace("batch_size: 16", "batch_size: 0").replace("condition_dropout: 0.1", "condition_dropout: 5")
    with pytest.raises(InvalidInputError) as refused:
        parse_config(text.replace("[t1, t1ce", "[t1, t1"), "test.yaml")
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("test.yaml: ") for line in lines)


def test_wrong_types_are_told_at_once_too() -> None:
    text = (PRESETS / "phantom.yaml").read_text(encoding="utf-8")
    text = text.replace("unshuffle: 2", "unshufle: 2").replace("widths: [64", "widths: [a")
    with pytest.raises(InvalidInputError) as refused:
        parse_config(text, "test.yaml")
    assert all(part in str(refused.value) for part in ("'unshuffle' is missing", "unknown key 'unshufle'", "widths[0]"))


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "0.0001", "1.0e-4", "+1e-04"])
def test_numbers_as_people_write_them(written: str) -> None:
    text = (
        (PRESETS / "phantom.yaml")
        .read_text(encoding="utf-8")
        .replace("learning_rate: 0.0005", f"learning_rate: {written}")
    )
    assert parse_config(text, "test.yaml").stages["refiner"].learning_rate == 0.0001


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

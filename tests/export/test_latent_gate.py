"""Latents that are not those that a system was normalised for, and systems that are refused or forced for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.errors import InvalidInputError
from sbldm.export.bundle import accepted_faults
from sbldm.export.plausibility import latent_faults
from sbldm.train.build import make_system_aggregator
from sbldm.train.checkpoint import load_system, read_tensors, weights_path
from sbldm.train.latents import LatentStore, measure_latent_scale, measure_normalisation
from sbldm.train.lineage import new_record, origin_of
from sbldm.train.networks.aggregator import Aggregator, MosaicAggregator
from sbldm.train.stage import complete_stage

from tests.conftest import TRACED_OPSET
from tests.support.tiny import tiny_system_config

CONFIG = tiny_system_config()
ORDER = ("autoencoder", "aggregator", "denoiser", "refiner", "distill")


def latents() -> np.ndarray:
    shape = (8, 2, CONFIG.grid.shape[2], *CONFIG.slice_shape)
    return np.random.default_rng(0).normal(1.0, 3.0, shape).astype(np.float16)


def measured(values: np.ndarray) -> Aggregator:
    """The aggregator that was measured on these latents."""
    aggregator = make_system_aggregator(CONFIG).eval()
    measure_normalisation(aggregator, LatentStore(values, np.zeros((8, 2, 12))))
    return aggregator


def faults_of(folder: Path, values: np.ndarray, aggregator: Aggregator) -> list[str]:
    (folder / "latents").mkdir()
    np.save(folder / "latents" / "latents.npy", values)
    return latent_faults(folder, CONFIG, {"aggregator": aggregator})


def test_latents_that_were_measured_have_no_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path, latents(), measured(latents())) == []


@pytest.mark.parametrize("values", [latents() * 5, latents() * 0.1, latents() + np.float16(4)])
def test_latents_of_another_autoencoder_are_told(tmp_path: Path, values: np.ndarray) -> None:
    found = faults_of(tmp_path, values, measured(latents()))
    assert len(found) == CONFIG.vae.latent_channels
    assert all("was not measured on this autoencoder" in fault for fault in found)


def test_latents_that_collapsed_are_told_though_they_were_measured(tmp_path: Path) -> None:
    """A KL weight far too large: deviation .001, which the normalisation makes 1 again."""
    values = (latents().astype(np.float32) / 3000).astype(np.float16)
    found = faults_of(tmp_path, values, measured(values))
    assert len(found) == CONFIG.vae.latent_channels
    assert all("it collapsed (autoencoder_loss.kl too large?)" in fault for fault in found)


def test_a_mosaic_has_a_mean_of_its_own(tmp_path: Path) -> None:
    """Its encoder is trained; only its deviation is measured."""
    config = tiny_system_config("cmig2025")
    shape = (8, 2, config.grid.shape[2], *config.slice_shape)
    values = np.random.default_rng(0).normal(1.0, 3.0, shape).astype(np.float16)
    aggregator = cast(MosaicAggregator, make_system_aggregator(config).eval())
    store = LatentStore(values, np.zeros((8, 2, 12)))
    measure_normalisation(aggregator, store)
    final = aggregator.posterior
    aggregator.posterior = lambda slices: (final(slices)[0] + 2.0, final(slices)[1])  # type: ignore[method-assign]
    measure_latent_scale(aggregator, store)
    (tmp_path / "latents").mkdir()
    np.save(tmp_path / "latents" / "latents.npy", values)
    assert latent_faults(tmp_path, config, {"aggregator": aggregator}) == []
    np.save(tmp_path / "latents" / "latents.npy", values * 5)
    assert latent_faults(tmp_path, config, {"aggregator": aggregator})


def test_faults_are_refused_all_at_once_or_accepted() -> None:
    assert accepted_faults(Path("run"), ["one", "two"], force=True) == ["one", "two"]
    assert accepted_faults(Path("run"), [], force=False) == []
    with pytest.raises(InvalidInputError, match=r"(?s)run: one\nrun: two\nrefused: .*--force"):
        accepted_faults(Path("run"), ["one", "two"], force=False)


NO_BRAINS = "0 of 4 samples are brains with the tumour that was asked for"


@pytest.mark.usefixtures("traced_once")
def test_a_trained_system_without_brains_is_refused_or_forced_into_its_card(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights with a record of training: parity holds, the samples are no brains."""
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "run"))
    config = load_system(checkpoint)
    for stage in (name for name in ORDER if name in config.stages):
        record = replace(new_record(origin_of(checkpoint, config, stage), 0, "c0"), step=config.stages[stage].steps)
        complete_stage(checkpoint, stage, read_tensors(weights_path(checkpoint, stage)), record)
    command = ["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "bundle")]
    command += ["--opset", str(TRACED_OPSET)]
    assert main(command) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"{NO_BRAINS}, at least 50% must be" in told
    assert not (tmp_path / "bundle").exists()
    assert main([*command, "--force"]) == 0
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert (
        "Faults that this export was forced to accept\n\n- 0 of 4 samples are brains with the tumour that was asked for"
        in card
    )
    training = json.loads((tmp_path / "bundle" / "bundle.json").read_text())["provenance"]["training"]
    assert f"denoiser {config.stages['denoiser'].steps} steps (weights " in training

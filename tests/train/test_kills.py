"""Trainings that are killed end in the bytes of one that is not, and data that change meanwhile are noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sbldm.train.config import SystemConfig

from tests.support.killed_training import Moments, final_weights, train
from tests.support.tiny_cohort import short_config, write_preset, write_small_cohort

KILLS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_cohort(tmp_path_factory.mktemp("cohort") / "data", 2)


@pytest.fixture(scope="module")
def preset(data: Path) -> Path:
    return write_preset(short_config(steps=2), data.parent / "short.yaml")


@pytest.fixture(scope="module")
def whole(data: Path, preset: Path) -> tuple[dict[str, str], int]:
    """Hashes of the weights of an uninterrupted training, and how many moments it has."""
    moments = Moments()
    assert train(moments, data, data.parent / "whole", preset) == 0
    return final_weights(data.parent / "whole"), moments.passed


def test_eight_kills_end_in_equal_bytes(
    data: Path, preset: Path, whole: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    """Each sitting goes an eighth farther than the one before, so that every stage is killed."""
    wanted, passed = whole
    out, kills = tmp_path / "out", 0
    while train(Moments(passed // KILLS), data, out, preset) is None:
        kills += 1
        assert kills < 2 * KILLS, "it does not get on"
    assert kills >= KILLS - 1
    assert final_weights(out) == wanted


def test_any_single_kill_does(data: Path, preset: Path, whole: tuple[dict[str, str], int], tmp_path: Path) -> None:
    wanted, passed = whole
    for kill_at in range(3, passed, passed // 4):
        out = tmp_path / str(kill_at)
        assert train(Moments(kill_at), data, out, preset) is None
        assert train(Moments(), data, out, preset) == 0
        assert final_weights(out) == wanted


def mosaic() -> SystemConfig:
    return short_config(steps=2, preset="cmig2025")


def test_a_kill_while_a_mosaic_is_measured_leaves_no_unit_scale(data: Path, tmp_path: Path) -> None:
    """The measurement after the last step is one of the moments; every one of the stage's is tried."""
    preset, whole = write_preset(mosaic(), tmp_path / "mosaic.yaml"), tmp_path / "whole"
    assert train(Moments(), data, whole, preset, "--stage", "autoencoder") == 0
    begun = Path(shutil.copytree(whole, tmp_path / "begun"))
    moments = Moments()
    assert train(moments, data, whole, preset, "--stage", "aggregator") == 0
    wanted = final_weights(whole)
    scale = load_file(whole / "aggregator" / "weights.safetensors")["latent_scale"]
    assert (scale != 1).all()
    for kill_at in range(moments.passed - 8, moments.passed):
        out = Path(shutil.copytree(begun, tmp_path / f"at-{kill_at}"))
        assert train(Moments(kill_at), data, out, preset, "--stage", "aggregator") is None
        assert train(Moments(), data, out, preset, "--stage", "aggregator") == 0
        assert final_weights(out) == wanted


def test_exchanged_scans_are_another_cohort(
    data: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """T1 and T2 change places, the masks stay."""
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    out = tmp_path / "out"
    assert train(Moments(), copied, out, preset, "--stage", "autoencoder") == 0
    for case in copied.iterdir():
        t1, t2, aside = (case / f"{case.name}_{part}.nii.gz" for part in ("t1", "t2", "aside"))
        t1.rename(aside)
        t2.rename(t1)
        aside.rename(t2)
    before = final_weights(out)
    for more in (("--stage", "aggregator"), ("--stage", "autoencoder", "--steps", "autoencoder=3"), ()):
        capsys.readouterr()
        assert train(Moments(), copied, out, preset, *more) == 3
        assert "images or masks were changed" in " ".join(capsys.readouterr().err.split())
    assert final_weights(out) == before

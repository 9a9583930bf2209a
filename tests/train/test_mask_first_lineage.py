"""The mask-first form: what its stages are made from is held together as that of the slices' form is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sbldm.cli.main import main
from sbldm.train.config import MaskFirstConfig
from sbldm.train.lineage import lineage_faults, new_record, origin_of, read_record
from sbldm.train.stage import complete_stage

from tests.support.tiny_cohort import write_preset, write_small_cohort
from tests.support.tiny_mask_first import tiny_mask_first

Run = Callable[..., int]
STAGES = ("autoencoder", "mask", "denoiser", "distill", "refiner")


def masks_file(path: Path, size: int) -> Path:
    label = np.zeros((2, 32, 32, 16), np.uint8)
    label[:, 10 : 10 + size, 10:18, 4:10] = 2
    np.savez(path, label=label)
    return path


def with_stage(config: MaskFirstConfig, stage: str, **changes: float) -> MaskFirstConfig:
    changed = dataclasses.replace(config.stages[stage], **changes)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(config, stages={**config.stages, stage: changed})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_cohort(tmp_path_factory.mktemp("cohort") / "data", 2)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    """Train into `out` with these stages, settings and masks."""

    def trained(*more: str, config: MaskFirstConfig | None = None, masks: Path | None = None) -> int:
        preset = write_preset(config or short(), tmp_path / "preset.yaml")
        command = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--cache", str(data.parent / "cache")]
        command += ["--preset", str(preset), "--workers", "1", "--precision", "32-true", *more]
        return main([*command, *([] if masks is None else ["--masks", str(masks)])])

    return trained


def short() -> MaskFirstConfig:
    return tiny_mask_first(steps=1)


def weights(folder: Path) -> dict[str, str | None]:
    """The recorded weights of the stages that are there."""
    records = {stage: read_record(folder / "out", stage) for stage in STAGES}
    return {stage: record.weights for stage, record in records.items() if record is not None}


def test_stages_behind_one_that_was_trained_on_are_made_again(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    config, before = short(), weights(tmp_path)
    assert lineage_faults(tmp_path / "out", config) == []
    longer = with_stage(config, "autoencoder", steps=2)
    assert run("--stage", "autoencoder", config=longer) == 0
    *stages, latents = lineage_faults(tmp_path / "out", longer)
    for stage, told in zip(("denoiser", "refiner"), stages, strict=True):
        assert told.startswith(f"stage {stage}: was made from stage autoencoder ")
    assert latents.startswith("latents: were made by stage autoencoder ")
    assert run(config=longer) == 0
    assert lineage_faults(tmp_path / "out", longer) == []
    after = weights(tmp_path)
    assert after["mask"] == before["mask"]  # it is made from no other stage
    assert after["denoiser"] != before["denoiser"]
    denoiser = read_record(tmp_path / "out", "denoiser")
    assert denoiser is not None
    assert denoiser.upstream == {"autoencoder": after["autoencoder"]}
    refiner = read_record(tmp_path / "out", "refiner")
    assert refiner is not None
    assert refiner.upstream == {"autoencoder": after["autoencoder"], "denoiser": after["denoiser"]}


@pytest.mark.parametrize(
    ("file", "key", "fault"),
    [
        ("latents", "encoder", "latents: were made by stage autoencoder 0ther, which is now "),
        ("masks", "extra", "masks: stage mask was trained on --masks none, its maps are now those of 0ther"),
    ],
)
def test_normalisations_of_something_else_are_told(tmp_path: Path, file: str, key: str, fault: str) -> None:
    """What lies beside the stages was measured on another autoencoder, or on other masks."""
    config = short()
    for stage in STAGES:
        if stage in config.stages:
            inputs = {"--masks": None} if stage == "mask" else {}
            record = new_record(origin_of(tmp_path, config, stage, inputs), 0, "cohort")
            complete_stage(tmp_path, stage, {"w": torch.ones(1)}, dataclasses.replace(record, step=1))
    (tmp_path / file).mkdir()
    assert lineage_faults(tmp_path, config) == []
    (tmp_path / file / "key.json").write_text(json.dumps({key: "0ther"}))
    (told,) = lineage_faults(tmp_path, config)
    assert told.startswith(fault)


def test_a_mask_stage_keeps_to_its_masks(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = masks_file(tmp_path / "a.npz", 8), masks_file(tmp_path / "b.npz", 6)
    assert run("--stage", "mask", masks=first) == 0
    kept, maps = weights(tmp_path), (tmp_path / "out" / "masks" / "maps.npy").read_bytes()
    for more in ((), ("--steps", "mask=2")):
        for masks in (second, None):
            assert run("--stage", "mask", *more, masks=masks) == 3
            told = " ".join(capsys.readouterr().err.split())
            assert "stage mask was begun with another --masks" in told
            assert "--restart-stage mask" in told
    assert (tmp_path / "out" / "masks" / "maps.npy").read_bytes() == maps
    assert weights(tmp_path) == kept
    assert run("--stage", "mask", masks=first) == 0
    assert weights(tmp_path) == kept
    assert run("--stage", "mask", "--restart-stage", "mask", masks=second) == 0
    assert weights(tmp_path) != kept


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: dataclasses.replace(c, condition_dropout=0.25), "condition_dropout: was 0.1, is 0.25"),
        (lambda c: with_stage(c, "mask", learning_rate=0.5), "stages.mask.learning_rate: was 0.001, is 0.5"),
    ],
)
def test_changed_settings_of_a_finished_stage_are_told(
    run: Run, capsys: pytest.CaptureFixture[str], change: Callable[[MaskFirstConfig], MaskFirstConfig], told: str
) -> None:
    config = with_stage(short(), "mask", learning_rate=0.001)
    assert run("--stage", "mask", config=config) == 0
    assert run("--stage", "mask", config=change(config)) == 3
    assert told in " ".join(capsys.readouterr().err.split())


def test_another_number_of_phantoms_is_another_cohort(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--stage", "mask", "--add-phantoms", "1") == 0
    assert run("--stage", "mask", "--add-phantoms", "1") == 0
    assert run("--stage", "mask") == 3
    assert "trained on another cohort" in " ".join(capsys.readouterr().err.split())

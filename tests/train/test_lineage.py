"""Stages that do not belong together are told apart from those that do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from sbldm.engine.errors import InvalidInputError
from sbldm.train.checkpoint import STAGES, weights_path
from sbldm.train.config import SystemConfig, load_preset
from sbldm.train.guards import require_same_settings
from sbldm.train.lineage import (
    changed_settings,
    lineage_faults,
    new_record,
    origin_of,
    outdated_upstream,
    read_record,
    settings_of,
    upstream_of,
)
from sbldm.train.stage import complete_stage


@pytest.fixture
def config() -> SystemConfig:
    config = load_preset("phantom")
    stages = {name: dataclasses.replace(stage, steps=3) for name, stage in config.stages.items()}
    return dataclasses.replace(config, stages=stages)


def finish(directory: Path, config: SystemConfig, stage: str, value: float, step: int = 3) -> None:
    """A finished stage whose weights are one number."""
    record = dataclasses.replace(new_record(origin_of(directory, config, stage), 0, "cohort"), step=step)
    complete_stage(directory, stage, {"w": torch.tensor([value])}, record)


@pytest.fixture
def trained(tmp_path: Path, config: SystemConfig) -> Path:
    for number, stage in enumerate(STAGES):
        if stage in config.stages:
            finish(tmp_path, config, stage, number)
    return tmp_path


def test_a_chain_that_fits_has_no_fault(trained: Path, config: SystemConfig) -> None:
    assert lineage_faults(trained, config) == []
    record = read_record(trained, "distill")
    assert record is not None
    assert record.upstream.keys() == {"autoencoder", "aggregator", "denoiser"}


@pytest.mark.parametrize("stage", ["autoencoder", "aggregator", "denoiser"])
def test_a_stage_made_again_makes_those_behind_it_stale(trained: Path, config: SystemConfig, stage: str) -> None:
    finish(trained, config, stage, 77.0)
    behind = {name for name in config.stages if stage in upstream_of(config, name)}
    faults = lineage_faults(trained, config)
    assert {fault.split(":")[0].removeprefix("stage ") for fault in faults} == behind
    assert all(f"made from stage {stage} " in fault and "which is now" in fault for fault in faults)


def test_weights_that_were_exchanged_are_told(trained: Path, config: SystemConfig) -> None:
    other = weights_path(trained, "aggregator").read_bytes()
    weights_path(trained, "refiner").write_bytes(other)
    (fault,) = lineage_faults(trained, config)
    assert fault.startswith("stage refiner: finished with weights ")


def test_a_stage_needs_finished_stages_before_it(tmp_path: Path, config: SystemConfig) -> None:
    with pytest.raises(InvalidInputError, match="stage aggregator needs stage autoencoder, which has 0 of 3 steps"):
        origin_of(tmp_path, config, "aggregator")
    finish(tmp_path, config, "autoencoder", 1.0, step=1)
    with pytest.raises(InvalidInputError, match="which has 1 of 3 steps"):
        origin_of(tmp_path, config, "aggregator")
    assert lineage_faults(tmp_path, config) == ["stage autoencoder: has 1 of 3 steps"]


def test_a_stage_needs_current_stages_before_it(trained: Path, config: SystemConfig) -> None:
    finish(trained, config, "autoencoder", 77.0)
    with pytest.raises(InvalidInputError, match="denoiser needs stage aggregator, which was made from stage auto"):
        origin_of(trained, config, "denoiser")


def test_changed_settings_of_a_finished_stage_are_named_with_the_ways_on(trained: Path, config: SystemConfig) -> None:
    stages = {**config.stages, "denoiser": dataclasses.replace(config.stages["denoiser"], learning_rate=0.5)}
    changed = dataclasses.replace(config, stages=stages, condition_dropout=0.25)
    record = read_record(trained, "denoiser")
    assert record is not None
    require_same_settings(trained, "denoiser", record, origin_of(trained, config, "denoiser"), 0)
    with pytest.raises(InvalidInputError) as refused:
        require_same_settings(trained, "denoiser", record, origin_of(trained, changed, "denoiser"), 4)
    for part in ("learning_rate: was 0.001, is 0.5", "condition_dropout: was 0.1, is 0.25", "seed: was 0, is 4",
                 "--restart-stage denoiser", "--steps denoiser=N above 3"):  # fmt: skip
        assert part in str(refused.value)


def test_more_steps_are_no_changed_setting(config: SystemConfig) -> None:
    longer = {name: dataclasses.replace(stage, steps=900) for name, stage in config.stages.items()}
    for stage in config.stages:
        assert settings_of(dataclasses.replace(config, stages=longer), stage) == settings_of(config, stage)


def test_settings_survive_the_record(trained: Path, config: SystemConfig) -> None:
    for stage in config.stages:
        record = read_record(trained, stage)
        assert record is not None
        assert changed_settings(record, settings_of(config, stage)) == []
        assert outdated_upstream(trained, record) == []


def test_a_directory_of_an_earlier_version_is_refused(trained: Path, config: SystemConfig) -> None:
    state = trained / "denoiser" / "state.json"
    state.write_text(json.dumps({"step": 3, "seed": 0, "cohort": None, "tensors": "x"}))
    with pytest.raises(InvalidInputError, match="written by an earlier version"):
        lineage_faults(trained, config)


def test_weights_that_no_training_made_have_no_lineage(tmp_path: Path, config: SystemConfig) -> None:
    (tmp_path / "autoencoder").mkdir()
    weights_path(tmp_path, "autoencoder").write_bytes(b"x")
    assert lineage_faults(tmp_path, config) == []

"""The mask-first form from scans to its student: varied copies, held-out cases, distillation, a warm start."""

from __future__ import annotations

import copy
import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sbldm.cli.main import main
from sbldm.engine.conditions.columns import COLUMNS, fit_columns
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.train.checkpoint import read_tensors, weights_path
from sbldm.train.condition_file import load_conditions
from sbldm.train.config import AugmentationConfig, DistillationConfig, MaskFirstConfig, PlanarConfig
from sbldm.train.data.cohort import Cohort, prepare_cohort
from sbldm.train.diffusion import make_schedule
from sbldm.train.held_out import HeldOutLoss, looked_at
from sbldm.train.lineage import read_record
from sbldm.train.logbook import read_metrics
from sbldm.train.mask_first import load_mask_first, make_image_denoiser
from sbldm.train.objectives.volumes import GuidedObjective, NoisyVolumes
from sbldm.train.trained import randomised
from sbldm.train.warm_start import begin_with, check_start
from torch import Tensor, nn

from tests.support.scans import arrays, write_case
from tests.support.tiny_cohort import write_preset
from tests.support.tiny_mask_first import tiny_mask_first, write_tiny_mask_first

STAGES = ("autoencoder", "mask", "denoiser", "distill", "refiner")


def distilled(steps: int = 2) -> MaskFirstConfig:
    config = tiny_mask_first(steps)
    stages = {**config.stages, "distill": config.stages["denoiser"]}
    augmentation, sampling = AugmentationConfig(1, 1.0, 1.0), dataclasses.replace(config.sampling, steps=2)
    return dataclasses.replace(
        config, stages=stages, augmentation=augmentation, distillation=DistillationConfig(3.0), sampling=sampling,
        mask_sampling=sampling,
    )  # fmt: skip


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A directory in which every stage was trained on two scans, one held out, and the command."""
    folder = tmp_path_factory.mktemp("whole")
    for name, tumour in (("A", (32.0, 20.0, 10.0)), ("B", (-30.0, -20.0, 0.0)), ("C", (0.0, 30.0, 10.0))):
        write_case(folder / "data", name, arrays(tumour=tumour))
    preset = write_preset(distilled(), folder / "tiny.yaml")
    line = ["train", "--data", str(folder / "data"), "--cache", str(folder / "cache"), "--preset", str(preset)]
    line += ["--workers", "1", "--held-out", "1"]
    assert main([*line, "--out", str(folder / "out")]) == 0
    return folder / "out", line


@pytest.mark.slow
def test_every_stage_sees_copies_and_is_looked_at_with_held_out_cases(trained: tuple[Path, list[str]]) -> None:
    out, _ = trained
    assert np.load(out / "latents" / "latents.npy", mmap_mode="r").shape[0] == 4  # two scans, a copy of each
    assert np.load(out / "masks" / "weights.npy").tolist() == [2.0, 2.0, 1.0, 1.0]
    scans = prepare_cohort(out.parent / "data", out.parent / "cache", distilled().grid)
    assert load_conditions(out)[0] == fit_columns(scans.conditions[:2], COLUMNS)
    metrics = read_metrics(out)
    assert list(metrics) == list(STAGES)
    for stage, found in metrics.items():
        assert np.isfinite([step["held_out_loss"] for step in found.values()]).all()
        for steps in (1, 2):
            picture = np.asarray(Image.open(out / "previews" / f"{stage}-{steps:06d}.png"))
            assert np.unique(picture).size > 16
            assert not np.array_equal(picture[: len(picture) // 2], picture[len(picture) // 2 :])


@pytest.mark.slow
def test_the_student_is_the_systems_denoiser_and_knows_its_teacher(trained: tuple[Path, list[str]]) -> None:
    out, _ = trained
    record = read_record(out, "distill")
    assert record is not None
    assert record.finished
    assert record.upstream.keys() == {"autoencoder", "denoiser"}
    assert record.settings["distillation.guidance"] == 3.0
    loaded, student = (
        load_mask_first(out, distilled())["denoiser"].state_dict(),
        read_tensors(weights_path(out, "distill")),
    )
    assert all(torch.equal(loaded[name], value) for name, value in student.items())


@pytest.mark.slow
def test_stages_begin_with_another_directorys_weights(
    trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, line = trained
    still = distilled()
    stages = {name: dataclasses.replace(stage, learning_rate=1e-12) for name, stage in still.stages.items()}
    preset = write_preset(dataclasses.replace(still, stages=stages), tmp_path / "still.yaml")
    more = [*line, "--preset", str(preset), "--out", str(tmp_path / "more"), "--start-from", str(out)]
    assert main([*more, "--stage", "autoencoder"]) == 0, capsys.readouterr().err
    before, after = (read_tensors(weights_path(folder, "autoencoder")) for folder in (out, tmp_path / "more"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    record, there = read_record(tmp_path / "more", "autoencoder"), read_record(out, "autoencoder")
    assert record is not None
    assert record.start is not None
    assert there is not None
    assert (record.start.weights, record.start.cohort) == (there.weights, there.cohort)
    assert there.start is None


def test_a_start_that_does_not_fit_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = write_tiny_mask_first(tmp_path / "start")
    config = tiny_mask_first()
    check_start(start, tmp_path / "out", config)
    wider = dataclasses.replace(config, denoiser=PlanarConfig((16, 16), 1, 16, 2))
    preset = write_preset(wider, tmp_path / "wider.yaml")
    line = ["train", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--preset", str(preset)]
    assert main([*line, "--start-from", str(start)]) == 3
    told = capsys.readouterr().err
    assert "another denoiser" in told
    assert "--start-from" in told
    assert main([*line, "--start-from", str(tmp_path / "nothing")]) == 3
    assert "training directory" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is --out itself"):
        check_start(start, start, config)
    for stage in config.stages:
        weights_path(start, stage).unlink(missing_ok=True)
    with pytest.raises(InvalidInputError, match="no trained stage"):
        check_start(start, tmp_path / "out", config)


def test_what_was_measured_on_the_cohort_stays_and_other_shapes_are_named(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, 2)
            self.register_buffer("mean", torch.full((1,), float(width)))

    from sbldm.train.checkpoint import write_tensors

    (tmp_path / "mask").mkdir()
    other = Scaled(3)
    other.mean.fill_(7.0)
    write_tensors(weights_path(tmp_path, "mask"), other.state_dict())
    module = Scaled(3)
    assert begin_with(module, tmp_path, "denoiser") is None
    start = begin_with(module, tmp_path, "mask")
    assert start is not None
    assert torch.equal(module.layer.weight, other.layer.weight)
    assert module.mean.item() == 3.0
    with pytest.raises(InvalidInputError, match=r"layer.weight is of shape \(2, 3\), must be of shape \(2, 4\)"):
        begin_with(Scaled(4), tmp_path, "mask")


class RandomVolumes:
    """Noise for latents and drafts, with random tissues and sources."""

    def draw(self, size: int, generator: np.random.Generator) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        clean = generator.standard_normal((size, 8, 4, 4, 4)).astype(np.float32)
        tissues = torch.from_numpy((generator.random((size, 3, 16, 32, 32)) < 0.3).astype(np.float32))
        draft = torch.from_numpy(generator.standard_normal(clean.shape).astype(np.float32))
        return clean, (tissues, draft, torch.ones(size))


def guided(dropout: float = 0.1) -> GuidedObjective:
    config = tiny_mask_first()
    torch.manual_seed(0)
    teacher = make_image_denoiser(config)
    teacher.load_state_dict(randomised(teacher))
    teacher = teacher.eval().requires_grad_(False)
    volumes = NoisyVolumes(RandomVolumes(), make_schedule(config.schedule), dropout)
    return GuidedObjective(volumes, 4, teacher, 3.0, nullcontext)


def test_the_target_is_classifier_free_guidance() -> None:
    objective = guided(dropout=0.5)
    batch = objective.volumes.draw(8, torch.device("cpu"), np.random.default_rng(1))
    assert set(batch.keep.tolist()) == {0.0, 1.0}
    made, told = objective.guided(batch), (batch.noisy, batch.timestep, *batch.told)
    conditional = objective.teacher(*told, torch.ones(8))
    unconditional = objective.teacher(*told, torch.zeros(8))
    kept = batch.keep > 0
    wanted = torch.lerp(unconditional, conditional, 3.0)
    torch.testing.assert_close(made[kept], wanted[kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made[~kept], unconditional[~kept])


def test_a_student_comes_near_its_guided_teacher() -> None:
    objective = guided()
    student: Any = copy.deepcopy(objective.teacher).requires_grad_(True)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)
        loss, _ = objective(student, 0, np.random.default_rng(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1e-3
    assert losses[-1] < 0.4 * losses[0]
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


def test_the_held_out_loss_is_the_same_for_the_same_weights_and_only_for_them() -> None:
    objective = guided()
    held_out = HeldOutLoss("distill", objective, 2, nullcontext)
    first = held_out(objective.teacher)
    torch.manual_seed(99)
    assert held_out(objective.teacher) == first
    other = copy.deepcopy(objective.teacher)
    for parameter in other.parameters():
        parameter.add_(0.1)
    assert held_out(other) != first
    assert first.keys() == {"held_out_loss", *(f"held_out_t{quarter}" for quarter in range(1, 5))}


def test_many_held_out_cases_are_looked_at_evenly(trained_cohort: Cohort) -> None:
    assert len(looked_at(trained_cohort)) == 16
    assert looked_at(trained_cohort).cases[0] == trained_cohort.cases[0]
    assert looked_at(trained_cohort).cases[-1] == trained_cohort.cases[-1]
    assert len(looked_at(trained_cohort.subset(range(3)))) == 3
    assert len(looked_at(trained_cohort.subset([]))) == 0


@pytest.fixture
def trained_cohort(tmp_path: Path) -> Cohort:
    """Forty cases by name; none of their files is read."""
    from sbldm.engine.bundle.manifest import DEFAULT_GRID, MODALITIES
    from sbldm.train.data.cohort import CachedCase

    names = [f"case-{number:02d}" for number in range(40)]
    entries = tuple(CachedCase(name, tmp_path / name, (1.0,) * 4, (1.0,) * 12) for name in names)
    return Cohort(DEFAULT_GRID, MODALITIES, entries)

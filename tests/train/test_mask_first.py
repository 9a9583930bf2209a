"""The mask-first form: its stages by the command line, exact resume, its configuration, its parts."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.fabric import Fabric
from sbldm.cli.main import main
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.mask_solver import noise_size, solve_mask
from sbldm.engine.output.measure import measure_tumour
from sbldm.kernels.noise import standard_normal
from sbldm.train.checkpoint import read_tensors, weights_path
from sbldm.train.config import (
    MaskFirstConfig,
    PlanarConfig,
    StageConfig,
    config_from_json,
    config_to_json,
    load_preset,
    parse_config,
)
from sbldm.train.data.mask_maps import REACH_MM, MapVariation, distance_maps, varied_maps
from sbldm.train.logbook import read_metrics
from sbldm.train.mask_first import channel_weights, load_mask_first
from sbldm.train.mask_set import read_extra_masks
from sbldm.train.networks.planar import ImageDenoiser, MaskDenoiser, from_blocks, to_blocks
from sbldm.train.networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from sbldm.train.run import plan
from sbldm.train.stage import StageRun, train_stage
from sbldm.train.volume_latents import tissue_planes
from torch import Tensor, nn

from tests.support.tiny_cohort import write_small_cohort
from tests.support.tiny_mask_first import tiny_mask_first

STAGES = ("autoencoder", "mask", "denoiser", "refiner")
SHAPE, SPACING = (64, 64, 32), (3.0, 3.0, 4.8)


def write_preset(config: MaskFirstConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config_to_json(config)))), encoding="utf-8")
    return path


def command(phantoms: Path, folder: Path, preset: Path, out: str, *more: str) -> list[str]:
    data = ["train", "--data", str(phantoms), "--out", str(folder / out), "--cache", str(folder / "cache")]
    return [*data, "--preset", str(preset), "--workers", "1", *more]


def masks_file(path: Path) -> Path:
    label = np.zeros((2, 32, 32, 16), np.uint8)
    label[:, 10:18, 10:18, 4:10] = 2
    label[:, 12:16, 12:16, 5:8] = 4
    np.savez(path, label=label)
    return path


@pytest.mark.slow
def test_stages_train_in_order_by_the_command_line(
    phantom_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tiny_mask_first(), tmp_path / "out"
    preset = write_preset(config, tmp_path / "tiny.yaml")
    line = command(phantom_cohort, tmp_path, preset, "out", "--masks", str(masks_file(tmp_path / "masks.npz")))
    assert main(line) == 0, capsys.readouterr().err
    metrics = read_metrics(out)
    assert list(metrics) == list(STAGES)
    assert all(np.isfinite(list(values.values())).all() for stage in metrics.values() for values in stage.values())
    assert np.load(out / "masks" / "maps.npy").shape == (4, 3, 16, 16, 16)  # two phantoms, two masks of the file
    latents = np.load(out / "latents" / "latents.npy").astype(np.float32)
    assert latents.shape == (2, 2, 8, 4, 4, 4)

    networks = load_mask_first(out, config)
    assert networks.keys() == {"encoder", "aggregator", "decoder", "denoiser", "mask_denoiser", "refiner"}
    with torch.no_grad():
        normalised = (torch.from_numpy(latents) - networks["aggregator"].mean) / networks["aggregator"].scale
        image, brain = networks["decoder"](networks["aggregator"].decode(normalised[:1, 0])[0])
    assert torch.allclose(normalised.mean(dim=(0, 1)), torch.zeros(8, 4, 4, 4), atol=1e-2)
    assert (image.shape, brain.shape) == ((4, 16, 32, 32), (4, 4, 32, 32))

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert main(line) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_masks_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_small_cohort(tmp_path / "data", 2)
    preset = write_preset(tiny_mask_first(), tmp_path / "tiny.yaml")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, label=np.zeros((2, 16, 16, 16), np.uint8))
    line = command(data, tmp_path, preset, "out", "--stage", "mask", "--masks", str(wrong))
    assert main(line) == 3
    assert "wrong.npz: label is uint8 (2, 16, 16, 16), must be uint8 (masks, 32, 32, 16)" in capsys.readouterr().err
    assert main([*command(data, tmp_path, Path("isbi2024"), "other"), "--masks", str(wrong)]) in (2, 3)
    assert "no mask stage" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "folder", "far too many", "no zip"])
def test_masks_are_a_regular_file_of_bounded_size(tmp_path: Path, what: str) -> None:
    path = Path(what) if what.startswith("/") else tmp_path / "masks.npz"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "far too many":
        with zipfile.ZipFile(path, "w") as archive, archive.open("label.npy", "w") as member:
            shape = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 32, 32, 16)}
            np.lib.format.write_array_header_1_0(member, shape)
    elif what == "no zip":
        path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(InvalidInputError, match=path.name):
        read_extra_masks(path, tiny_mask_first())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), keep=st.one_of(st.none(), st.integers(0, 10**6)))
def test_wounded_masks_are_told(tmp_path: Path, at: int, bit: int, keep: int | None) -> None:
    path = tmp_path / "wounded.npz"
    np.savez_compressed(path, label=np.ones((1, 32, 32, 16), np.uint8))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data[: None if keep is None else keep % len(data)])
    with suppress(InvalidInputError):  # a flipped bit may well do no harm; any other exception fails
        assert read_extra_masks(path, tiny_mask_first()).shape == (1, 32, 32, 16)


def test_bfloat16_weights_resume_exactly(tmp_path: Path) -> None:
    config = StageConfig(6, 1, 0.01, 1, 0.0, 0.9)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")

    def loss(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if step == 4 and not (tmp_path / "revived").exists():
            (tmp_path / "revived").touch()
            raise RuntimeError("killed")
        x = torch.from_numpy(generator.normal(size=(1, 3, 4, 4)).astype(np.float32)).to(module.weight.dtype)
        return module(x).float().square().mean(), {}

    def run(folder: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        settings = StageRun(fabric, tmp_path / folder, 0, lambda *_: None, save_seconds=0.0, half_weights=True)
        train_stage(settings, "denoiser", nn.Conv2d(3, 2, 3), loss, config)
        return read_tensors(weights_path(tmp_path / folder, "denoiser"))

    with pytest.raises(RuntimeError, match="killed"):
        run("killed")
    resumed, whole = run("killed"), run("whole")
    assert resumed["weight"].dtype == torch.float32
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_preset_survives_json_and_plans_its_stages() -> None:
    config = load_preset("glioma")
    assert isinstance(config, MaskFirstConfig)
    assert config_from_json(json.loads(json.dumps(config_to_json(config))), "here") == config
    lines = plan(config, "all").splitlines()
    costs = {line.split()[0]: float(line.split()[4]) for line in lines if "GMAC a volume" in line}
    assert costs.keys() == {"encoder", "aggregator", "decoder", "denoiser", "mask_denoiser", "refiner"}
    assert costs["denoiser"] <= 12.5
    assert [line.split()[1][:-1] for line in lines if line.startswith("stage")] == list(STAGES)
    assert sum("GiB in float32" in line for line in lines) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tissues": ("wt",)}, "tissues: are wt, must be ncr, ed, et"),
        (
            {"modalities": ("t1ce", "flair")},
            "modalities: t1, t2 missing: the tissues of a scan are told",
        ),
        ({"mask_grid": (24, 32, 32)}, "mask_grid (24, 32, 32) must divide grid.shape"),
        (
            {"denoiser": PlanarConfig((8, 10), 1, 16, 4)},
            "denoiser.heads: is 4, must divide the last of its widths (10)",
        ),
        ({"denoiser": PlanarConfig((8, 8, 8, 8, 8, 8), 1, 16, 4)}, "grid.shape (128, 128, 64) must be divisible"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, object], told: str) -> None:
    config = load_preset("glioma")
    assert isinstance(config, MaskFirstConfig)
    text = yaml.safe_dump(json.loads(json.dumps(config_to_json(dataclasses.replace(config, **change)))))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInputError) as error:
        parse_config(text, "mine.yaml")
    assert f"mine.yaml: {told}" in str(error.value)


def ellipsoid(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Label of nested ellipsoids off the centre."""
    axes = [np.arange(n) - c for n, c in zip(shape, (25, 36, 15), strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x / 9) ** 2 + (y / 7) ** 2 + (z / 5) ** 2)
    return np.select([radius < 0.5, radius < 0.75, radius < 1.0], [1, 3, 2], 0).astype(np.uint8)


def test_maps_are_signed_distances_that_give_the_label_back() -> None:
    label = ellipsoid()
    maps = distance_maps(label, SPACING, (32, 32, 32))
    assert maps.shape == (3, 32, 32, 32)
    assert maps.max() == REACH_MM
    assert (np.diff(maps, axis=0) >= -1e-3).all()  # the core lies in the tumour, the necrosis in the core
    assert maps[:, 15, 25 // 2, 36 // 2].max() < 0.0
    wanted = measure_tumour(label, SPACING).vector(COLUMNS)
    solved = solve_mask(maps, wanted, SHAPE, SPACING, standard_normal(0, 0, 2**31 + 32768, noise_size(SHAPE)))
    assert 2 * np.count_nonzero((solved.label > 0) & (label > 0)) > 0.9 * 2 * np.count_nonzero(label)


def test_varied_maps_are_those_of_the_conditions_that_they_come_with() -> None:
    label = ellipsoid()
    maps, row = distance_maps(label, SPACING, (32, 32, 32)), measure_tumour(label, SPACING).vector(COLUMNS)
    volumes = set()
    for seed in range(6):
        varied, told = varied_maps(maps, row, (192.0, 192.0, 153.6), np.random.default_rng(seed), MapVariation())
        inside = np.argwhere(varied[0] < 0)
        z, x, y = (inside.mean(axis=0) + 0.5) / 32
        assert np.allclose([x, y, z], told[3:6], atol=0.012)
        assert len(inside) * 6 * 6 * 4.8 / 1000 == pytest.approx(told[0], rel=0.2)
        assert told[2] == row[2]
        assert np.array_equal(told[9:], row[9:])
        volumes.add(round(float(told[0]), 3))
    assert len(volumes) == 6


def test_tissues_and_draft_reach_the_denoiser_unless_hidden() -> None:
    torch.manual_seed(0)
    denoiser = ImageDenoiser(PlanarConfig((8, 16), 1, 16, 2), (8, 4, 4, 4), 3, 4)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    tissues = torch.from_numpy(tissue_planes(ellipsoid((32, 32, 16)).transpose(2, 0, 1)))[None]
    noisy, time, one = torch.randn(1, 8, 4, 4, 4), torch.tensor([500.0]), torch.ones(1)
    draft = torch.randn(1, 8, 4, 4, 4)
    with torch.no_grad():
        shown = denoiser(noisy, time, tissues, draft, one, one)
        assert not torch.allclose(shown, denoiser(noisy, time, torch.zeros_like(tissues), draft, one, one))
        assert not torch.allclose(shown, denoiser(noisy, time, tissues, -draft, one, one))
        assert not torch.allclose(shown, denoiser(noisy, time, tissues, draft, 0 * one, one))  # as a phantom
        hidden = denoiser(noisy, time, tissues, draft, one, 0 * one)
        assert torch.allclose(hidden, denoiser(noisy, time, torch.zeros_like(tissues), -draft, one, 0 * one))


def test_the_mask_denoiser_sees_the_condition_and_blocks_go_back() -> None:
    torch.manual_seed(0)
    volume = torch.randn(2, 3, 4, 4, 4)
    assert torch.equal(from_blocks(to_blocks(volume)), volume)
    denoiser = MaskDenoiser(PlanarConfig((8, 16), 1, 16, 2), (3, 16, 16, 16), COLUMNS)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    noisy, time, one = torch.randn(1, 3, 16, 16, 16), torch.tensor([500.0]), torch.ones(1)
    first, second = torch.zeros(1, 12), torch.ones(1, 12)
    with torch.no_grad():
        assert not torch.allclose(denoiser(noisy, time, first, one), denoiser(noisy, time, second, one))
        assert torch.equal(denoiser(noisy, time, first, 0 * one), denoiser(noisy, time, second, 0 * one))


def test_channels_that_show_most_weigh_most() -> None:
    autoencoder = SlabAutoencoder(tiny_mask_first().autoencoder, 4)
    aggregator = NormalisedAggregator(autoencoder.aggregator, (8, 4, 4, 4))
    aggregator.scale[2] = 3.0
    with torch.no_grad():
        autoencoder.decoder.expand.weight.fill_(1.0)
    weights = channel_weights(autoencoder, aggregator)
    assert weights.mean() == pytest.approx(1.0)
    assert torch.allclose(weights / weights[0], torch.where(torch.arange(8) == 2, 3.0, 1.0))

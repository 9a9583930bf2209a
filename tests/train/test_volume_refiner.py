"""What the refiner of the mask-first form learns: from which samples, towards what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sbldm.engine.scans.prepare import to_unit
from sbldm.train import drafted_samples
from sbldm.train.checkpoint import load_system
from sbldm.train.config import MaskFirstConfig
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.diffusion import make_schedule
from sbldm.train.drafted_samples import STRENGTHS, DraftedSamples, SampleMaker, drafted_cases
from sbldm.train.drafted_samples import drafted_samples as make
from sbldm.train.drafts import Drafts, load_levels
from sbldm.train.mask_first import load_mask_first, make_volume_refiner
from sbldm.train.networks.refiner import DraftRefiner
from sbldm.train.networks.slab_autoencoder import NormalisedAggregator
from sbldm.train.objectives.volume_refiner import VolumeRefinerObjective, smoothed_within, with_coarse_of
from sbldm.train.torch_components import TorchComponents
from scipy import ndimage

from tests.support.scans import arrays, write_case
from tests.support.tiny_mask_first import tiny_mask_first, write_tiny_mask_first

GRID = (16, 24, 24)


def blobs(rng: np.random.Generator, smooth: float, channels: int = 4) -> NDArray[np.float32]:
    """(z, channel, x, y), of deviation .2."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal((GRID[0], channels, *GRID[1:])), (smooth / 2, 0, smooth, smooth)
    )
    return (0.2 * noise / noise.std()).astype(np.float32)


def stored(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint((image.clip(-1, 1) + 1) * 127.5).clip(1, 255).astype(np.uint8)


def test_what_is_wanted_has_the_samples_coarse_signal_the_scans_edges_and_the_scans_tumour() -> None:
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    edges = 0.1 * torch.sign(torch.sin(1.3 * x))
    scan = (edges + 0.3).expand(1, 2, 48, 48)
    coarse = (-0.2 + 0.004 * y).expand(1, 2, 48, 48)
    brain, tumour = torch.zeros(2, 1, 1, 48, 48)
    brain[..., 4:44, 4:44] = 1
    tumour[..., 30:40, 30:40] = 1
    wanted = with_coarse_of(coarse, scan, brain, tumour)
    healthy = (slice(None), slice(None), slice(10, 20), slice(10, 38))
    found = (wanted - smoothed_within(wanted, brain))[healthy]
    expected = (scan - smoothed_within(scan, brain))[healthy]
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(wanted[healthy].mean(), coarse[healthy].mean(), atol=0.01, rtol=0)
    torch.testing.assert_close(wanted[..., 33:37, 33:37], scan[..., 33:37, 33:37], atol=0.01, rtol=0)
    torch.testing.assert_close(wanted[..., :3, :], scan[..., :3, :])


class Pairs:
    """Samples that lack what their drafts show, of cases that have it."""

    def __init__(self, count: int = 3) -> None:
        rng = np.random.default_rng(0)
        edges = [blobs(rng, 0.5) for _ in range(count)]
        low = [blobs(rng, 4.0) for _ in range(count)]
        self.images = [stored(a + b) for a, b in zip(edges, low, strict=True)]
        coarse, drafts = (np.stack([stored(one) for one in part]) for part in (low, edges))
        self.samples = DraftedSamples(tuple(range(count)), coarse, drafts)

    def slices(self, case: int) -> NDArray[np.uint8]:
        return self.images[case]

    def label(self, case: int) -> NDArray[np.uint8]:
        return np.pad(np.ones((4, 6, 6), np.uint8), ((2, 10), (3, 15), (5, 13)))


def refiner() -> DraftRefiner:
    torch.manual_seed(0)
    return make_volume_refiner(tiny_mask_first())


def test_a_refiner_learns_the_edges_that_drafts_show() -> None:
    pairs, module = Pairs(), refiner()
    objective = VolumeRefinerObjective(pairs, pairs.samples, 2)  # pyright: ignore[reportArgumentType]
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for step in range(150):
        loss, terms = objective(module, step, np.random.default_rng(step))
        if step == 0:
            assert terms["error_before_over_after"].item() == pytest.approx(1.0)  # it begins as the identity
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * losses[0]


def test_crops_of_sample_draft_scan_and_tumour_are_of_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    place = np.arange(16 * 24 * 24, dtype=np.int64).reshape(16, 1, 24, 24) % 251 + 1
    image = np.repeat(place, 4, axis=1).astype(np.uint8)
    tumour = (place[:, 0] % 2).astype(np.uint8)
    cohort: Any = SimpleNamespace(slices=lambda _: image, label=lambda _: tumour)
    objective = VolumeRefinerObjective(cohort, DraftedSamples((0,), image[None], image[None]), 4)
    monkeypatch.setattr("sbldm.train.objectives.volume_refiner.PLANE", 8)
    coarse, draft, scan, mask = objective._crops(8, np.random.default_rng(0))
    assert coarse.shape == (8, 12, 4, 8, 8)
    assert torch.equal(coarse, draft)
    assert torch.equal(coarse, scan)
    levels = torch.round((scan[:, :, :1] + 1) * 127.5).long()
    assert torch.equal(mask, (levels % 2).float())
    assert len({tuple(crop.flatten()[:4].tolist()) for crop in scan}) > 4


@pytest.fixture(name="maker")
def _maker(tmp_path: Path) -> SampleMaker:
    checkpoint = write_tiny_mask_first(tmp_path / "checkpoint")
    config = load_system(checkpoint)
    assert isinstance(config, MaskFirstConfig)
    for name, tumour in (("A", (32.0, 20.0, 10.0)), ("B", (-30.0, -20.0, 0.0))):
        write_case(tmp_path / "data", name, arrays(tumour=tumour))
    cohort = prepare_cohort(tmp_path / "data", tmp_path / "cache", config.grid)
    networks = load_mask_first(checkpoint, config)
    aggregator = networks["aggregator"]
    assert isinstance(aggregator, NormalisedAggregator)
    parts = {**networks, "aggregator": aggregator.decode, "aggregator_encode": aggregator.encode}
    run = TorchComponents(parts, form="mask-first").run
    return SampleMaker(run, cohort, config, make_schedule(config.schedule), load_levels(checkpoint / "latents"))


def test_samples_are_made_on_the_cases_drafts_and_kept_until_a_network_changes(
    maker: SampleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafted_samples, "SOFTNESS_MM", (6.0, 6.0, 9.6))  # the test's grid is coarse
    fabric = Fabric(accelerator="cpu", devices=1)
    told: list[tuple[int, int]] = []
    samples = make(maker, tmp_path, {"denoiser": "a"}, fabric, lambda *done: told.append(done))
    assert samples.cases == (0, 1)
    assert told == [(1, 2), (2, 2)]
    depth, (x, y) = maker.config.grid.shape[2], maker.config.grid.shape[:2]
    assert samples.coarse.shape == samples.drafts.shape == (2, depth, 4, x, y)
    assert samples.coarse.dtype == np.uint8
    assert np.array_equal(samples.drafts[0], Drafts(maker.cohort).stored(0, maker.levels))
    hard = Drafts(maker.cohort).stored(1, maker.levels)  # every second one is softened, but for the tumour
    tumour = maker.cohort.label(1) > 0
    soft = samples.drafts[1].transpose(1, 0, 2, 3)
    assert np.array_equal(soft[:, tumour], hard.transpose(1, 0, 2, 3)[:, tumour])
    assert not np.array_equal(soft[:, ~tumour], hard.transpose(1, 0, 2, 3)[:, ~tumour])
    assert np.ptp(samples.coarse) > 50

    made: list[int] = []
    whole = SampleMaker.made
    monkeypatch.setattr(SampleMaker, "made", lambda self, *which: made.append(which[1]) or whole(self, *which))
    again = make(maker, tmp_path, {"denoiser": "a"}, fabric, lambda *_: None)
    assert made == []
    assert np.array_equal(again.coarse, samples.coarse)
    make(maker, tmp_path, {"denoiser": "b"}, fabric, lambda *_: None)
    assert made == [0, 1]


def test_a_weak_sample_is_nearer_to_its_scan(maker: SampleMaker) -> None:
    weakest = STRENGTHS.index(min(STRENGTHS))
    near, _ = maker.made(weakest, 0)
    far, _ = maker.made(0, 0)
    reconstruction = maker.run("aggregator", {"latent": _clean(maker)})["features"][0]
    planes, _ = drafted_samples.decode_slabs(maker.run, reconstruction, 4)
    distance = [np.abs(to_unit(image) - planes.clip(-1, 1)).mean() for image in (near, far)]
    assert distance[0] < distance[1]


def _clean(maker: SampleMaker) -> NDArray[np.float32]:
    model = drafted_samples.volume_model(maker.config, maker.schedule, 1.0, maker.levels)
    return model.encode(maker.run, to_unit(maker.cohort.slices(0)))[None]


def test_samples_are_made_of_a_part_of_a_large_cohort_and_never_of_what_is_never_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drafted_samples, "MOST_CASES", 5)
    monkeypatch.setattr(drafted_samples, "chances", lambda _: np.r_[np.zeros(10), np.full(10, 0.1)])
    cohort: Any = [None] * 20
    cases = drafted_cases(cohort)
    assert len(set(cases)) == 5
    assert min(cases) >= 10
    assert cases == drafted_cases(cohort) == tuple(sorted(cases))
    monkeypatch.setattr(drafted_samples, "MOST_CASES", 50)
    assert drafted_cases(cohort) == tuple(range(10, 20))

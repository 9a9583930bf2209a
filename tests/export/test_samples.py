"""What the gate says of samples that are no brains with the tumours that were asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.bundle.manifest import DEFAULT_GRID, MODALITIES, BundleManifest, Grid
from sbldm.engine.sampling.types import Volume
from sbldm.export import samples
from sbldm.export.samples import Judge, levels, neighbour_likeness, sample_fault, sample_faults, shipped_judge

SHAPE, SPACING = (32, 32, 16), (6.0, 6.0, 9.6)
NOISE = "the image is noise: neighbouring voxels correlate by less than 0.3"
FLAT = "grey and white matter cannot be told apart: they differ by less than 0.05 of the brain's mean on T1"
VOLUME = "the tumour's volume is more than 2 times off what was asked for"
FAR = "the tumour lies more than 0.15 of the field from where it was asked for"
WANTED = {"volume_ml": 44.0, "x": 0.625, "y": 0.5, "z": 0.5}


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Bundle) -> BundleManifest:
    return replace(tiny_bundle.manifest, grid=Grid(SHAPE, SPACING))


def sound() -> Volume:
    """Fluid, white and grey matter around each other in an ellipsoid, and a ball of tumour."""
    x, y, z = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    far = np.sqrt((x / 12) ** 2 + (y / 13) ** 2 + (z / 6) ** 2)
    label = np.where((x - 4) ** 2 + y**2 + (2 * z) ** 2 < 16, 2, 0).astype(np.uint8)
    tissue = np.select([far < 0.3, far < 0.7, far < 1], [200, 500, 400], 0)
    image = np.where(far < 1, tissue + 2 * x + y + 200 * (label > 0), 0).astype(np.int16)
    return Volume(0, 0, np.stack([image] * 4), label, None)


def noisy(volume: Volume) -> Volume:
    noise = np.random.default_rng(0).integers(1, 1000, volume.image.shape).astype(np.int16)
    return replace(volume, image=np.where(volume.image > 0, noise, 0).astype(np.int16))


def elsewhere(volume: Volume) -> Volume:
    label = np.zeros_like(volume.label)
    label[:3, :3, :3] = 1
    return replace(volume, label=label)


def speck(volume: Volume) -> Volume:
    image = np.zeros_like(volume.image)
    image[:, 14:18, 14:18, 7:9] = volume.image[:, 14:18, 14:18, 7:9]
    return replace(volume, image=image)


def flat(volume: Volume) -> Volume:
    x, y, _ = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    image = np.where(volume.image > 0, 400 + 3 * x + 2 * y, 0)
    return replace(volume, image=image.astype(np.int16))


def without_background(volume: Volume) -> Volume:
    return replace(volume, image=np.maximum(volume.image, 1))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda volume: volume, None),
        (without_background, ("more than 75% of the grid is brain", "100%")),
        (flat, (FLAT, "0.021")),
        (noisy, (NOISE, "-0.01")),
        (lambda volume: replace(volume, label=np.zeros_like(volume.label)), ("no tumour", "")),
        (lambda v: replace(v, label=np.full_like(v.label, 2)), ("more than 50% of the brain is tumour", "414%")),
        (elsewhere, ("less than 50% of the tumour lies in the brain", "0%")),
        (speck, ("less than 2% of the grid is brain", "0.2%")),
        (lambda volume: replace(volume, fault="modality 0 is blank"), ("modality 0 is blank", "")),
    ],
)
def test_a_sample_that_is_no_brain_with_a_tumour_is_told(
    manifest: BundleManifest, change: Callable[[Volume], Volume], fault: tuple[str, str] | None
) -> None:
    assert sample_fault(change(sound()), manifest, WANTED) == fault


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        ({"volume_ml": 90.0}, None),
        ({"volume_ml": 110.0}, (VOLUME, "52.5 ml for 110.0")),
        ({"volume_ml": 20.0}, (VOLUME, "52.5 ml for 20.0")),
        ({"x": 0.49}, None),
        ({"z": 0.34}, (FAR, "0.16")),
        ({"x": 0.52, "y": 0.38}, (FAR, "0.16")),
    ],
)
def test_a_tumour_that_misses_its_request_is_told(
    manifest: BundleManifest, wanted: Mapping[str, float], fault: tuple[str, str] | None
) -> None:
    assert sample_fault(sound(), manifest, {**WANTED, **wanted}) == fault


def test_without_a_t1_nobody_asks_for_its_contrast(manifest: BundleManifest) -> None:
    other = replace(manifest, modalities=("flair",))
    assert sample_fault(replace(flat(sound()), image=flat(sound()).image[:1]), other, WANTED) is None


def test_one_noisy_modality_is_enough(manifest: BundleManifest) -> None:
    volume = sound()
    image = volume.image.copy()
    image[2] = noisy(volume).image[2]
    assert sample_fault(replace(volume, image=image), manifest, WANTED) == (NOISE, "-0.01")


def test_likeness_of_a_constant_image_is_none() -> None:
    assert neighbour_likeness(np.full(SHAPE, 5, np.int16), np.ones(SHAPE, bool)) == 0.0


class Drawn:
    """Stands for the sampling loop: `bad` samples without a tumour, then sound ones."""

    def __init__(self, bad: int) -> None:
        self.bad, self.seeds = bad, list[int]()

    def __call__(self, run: object, manifest: object, seed: int) -> Volume:
        self.seeds.append(seed)
        volume = sound()
        return replace(volume, label=np.zeros_like(volume.label)) if len(self.seeds) <= self.bad else volume


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    made = Drawn(0)
    monkeypatch.setattr(samples, "sample_volume", made)
    monkeypatch.setattr(samples, "wanted_tumour", lambda manifest, seed: WANTED)
    return made


@pytest.mark.parametrize(("bad", "refused"), [(0, False), (2, False), (3, True), (4, True)])
def test_half_of_the_samples_must_be_good(manifest: BundleManifest, drawn: Drawn, bad: int, refused: bool) -> None:
    drawn.bad = bad
    faults = sample_faults(lambda *_: {}, manifest)
    assert len(set(drawn.seeds)) == samples.SAMPLES
    assert bool(faults) is refused
    if refused:
        assert faults[0].startswith(
            f"{4 - bad} of 4 samples are brains with the tumour that was asked for, at least 50%"
        )
        assert f"no tumour ({bad})" in faults[0]


def test_the_gate_shows_the_figure_of_each_sample(
    manifest: BundleManifest, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = iter([20.0, 10.0, 110.0, 44.0])
    monkeypatch.setattr(samples, "wanted_tumour", lambda manifest, seed: {**WANTED, "volume_ml": next(wishes)})
    (fault,) = sample_faults(lambda *_: {}, manifest)
    assert "asked for (52.5 ml for 20.0, 52.5 ml for 10.0, 52.5 ml for 110.0)" in fault


class Finding:
    """A segmenter that finds the first `share` of the slices of what is brighter than white matter."""

    def __init__(self, share: float) -> None:
        self.share = share

    def segment(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = np.where(image[0] > 0.57 * 255, 2, 0).astype(np.uint8)
        held = np.flatnonzero(found.any(axis=(0, 1)))
        found[..., held[round(self.share * len(held)) :]] = 0
        return found


@pytest.mark.parametrize(("share", "refused"), [(1.0, False), (0.5, False), (0.15, True)])
def test_a_segmenter_has_to_find_the_tumours(
    manifest: BundleManifest, drawn: Drawn, share: float, refused: bool
) -> None:
    faults = sample_faults(lambda *_: {}, manifest, Judge(Finding(share), 0.9))
    assert bool(faults) is refused
    if refused:
        assert "image and mask of the samples do not belong together" in faults[0]
        assert "in training cases by 0.90" in faults[0]


def test_samples_that_are_faulty_anyway_are_not_judged(manifest: BundleManifest, drawn: Drawn) -> None:
    drawn.bad = 2
    assert sample_faults(lambda *_: {}, manifest, Judge(Finding(1.0), 1.0)) == []


def test_levels_are_those_of_prepared_cases() -> None:
    assert levels(np.array([0, 1, 500, 1000], np.int16)).tolist() == [0, 1, 128, 255]


def test_what_is_asked_for_is_what_generate_asks_for(tiny_bundle: Bundle) -> None:
    names = [column.name for column in tiny_bundle.manifest.condition_columns]
    first, second = (samples.wanted_tumour(tiny_bundle.manifest, seed) for seed in (1, 2))
    assert list(first) == names
    assert first != second
    assert first["volume_ml"] > 0


@pytest.mark.parametrize(("share", "knows"), [(1.0, True), (0.2, False)])
def test_who_does_not_know_the_training_cases_does_not_judge(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, knows: bool
) -> None:
    stored = np.concatenate([levels(sound().image), sound().label[None]]).transpose(3, 0, 1, 2)
    for folder in ("latents", "cache"):
        (tmp_path / folder).mkdir()
    (tmp_path / "latents" / "key.json").write_text(json.dumps({"cases": ["A.npy", "gone.npy"]}))
    np.save(tmp_path / "cache" / "A.npy", stored)
    monkeypatch.setattr(samples, "PhantomSegmenter", lambda: Finding(share))
    monkeypatch.setattr("sbldm.train.evaluation.phantom_segmenter.FILE", Path(__file__))
    fitting = replace(tiny_bundle.manifest, grid=DEFAULT_GRID, modalities=MODALITIES)
    judge = shipped_judge(tmp_path, fitting)
    assert (judge is not None) is knows
    if judge is not None:
        assert 0.8 < judge.dice < 1
    assert shipped_judge(tmp_path, tiny_bundle.manifest) is None


def test_nobody_judges_without_prepared_cases(tiny_bundle: Bundle, tmp_path: Path) -> None:
    fitting = replace(tiny_bundle.manifest, grid=DEFAULT_GRID, modalities=MODALITIES)
    assert shipped_judge(tmp_path, fitting) is None

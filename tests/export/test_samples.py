"""What the gate says of samples that are no brains with a tumour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.sampling.types import Volume
from sbldm.export import samples
from sbldm.export.samples import neighbour_likeness, sample_fault, sample_faults

SHAPE, SPACING = (32, 32, 16), (6.0, 6.0, 9.6)


def sound() -> Volume:
    """A smooth ellipsoid of brain with a ball of tumour."""
    x, y, z = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
    brain = (x / 12) ** 2 + (y / 13) ** 2 + (z / 6) ** 2 < 1
    label = np.where((x - 4) ** 2 + y**2 + (2 * z) ** 2 < 16, 2, 0).astype(np.uint8)
    image = np.where(brain, 400 + 10 * x + 5 * y + 200 * (label > 0), 0).astype(np.int16)
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


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda volume: volume, None),
        (noisy, "the image is noise"),
        (lambda volume: replace(volume, label=np.zeros_like(volume.label)), "no tumour"),
        (lambda volume: replace(volume, label=np.full_like(volume.label, 2)), "more than 50% of the brain is tumour"),
        (elsewhere, "the tumour lies outside of the brain"),
        (speck, "less than 2% of the grid is brain"),
        (lambda volume: replace(volume, fault="modality 0 is blank"), "modality 0 is blank"),
    ],
)
def test_a_sample_that_is_no_brain_with_a_tumour_is_told(change: Callable[[Volume], Volume], fault: str | None) -> None:
    assert sample_fault(change(sound()), SPACING) == fault


def test_one_noisy_modality_is_enough() -> None:
    volume = sound()
    image = volume.image.copy()
    image[2] = noisy(volume).image[2]
    assert sample_fault(replace(volume, image=image), SPACING) == "the image is noise"


def test_likeness_of_a_constant_image_is_none() -> None:
    assert neighbour_likeness(np.full(SHAPE, 5, np.int16), np.ones(SHAPE, bool)) == 0.0


@pytest.mark.parametrize(("bad", "refused"), [(0, False), (2, False), (3, True), (4, True)])
def test_half_of_the_samples_must_be_good(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, bad: int, refused: bool
) -> None:
    drawn = list[int]()

    def sampled(run: object, manifest: object, seed: int) -> Volume:
        drawn.append(seed)
        volume = sound()
        return replace(volume, label=np.zeros_like(volume.label)) if len(drawn) <= bad else volume

    monkeypatch.setattr(samples, "sample_volume", sampled)
    faults = sample_faults(lambda *_: {}, tiny_bundle.manifest)
    assert len(set(drawn)) == samples.SAMPLES
    assert bool(faults) is refused
    if refused:
        assert faults[0].startswith(f"{4 - bad} of 4 samples are brains with a tumour, at least 50% must be: no tumour")

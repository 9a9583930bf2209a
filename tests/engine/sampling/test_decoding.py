"""What each network is given on the way from slice latents to a volume, by networks that write it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.sampling.decoding import (
    DECODER_SLICES,
    NOT_FINITE,
    assemble_volume,
    decode_slices,
    encode_volume,
    image_fault,
)
from sbldm.engine.sampling.types import SampleRequest
from sbldm.kernels.assemble import one_hot_labels
from sbldm.kernels.statistics import image_statistics

DEPTH, CLASSES, SIDE = 21, 3, 4
REQUEST = SampleRequest(4, 2, np.zeros(0, np.float32))


class Networks:
    """A decoder that shows its latents and positions, a refiner that adds the label; all calls are kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, NDArray[Any]]]] = []

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.calls.append((component, dict(inputs)))
        return getattr(self, component)(**inputs)

    def decoder(self, latent: NDArray[np.float32], position: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        return {"image": latent[:, :2], "label_logits": latent[:, 2:] + position[:, None, None, None]}

    def refiner(self, image: NDArray[np.float32], label: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"refined": image * 0.5 + label[:, :, 1:]}

    def encoder(self, image: NDArray, label: NDArray, position: NDArray) -> dict[str, NDArray[np.float32]]:
        return {"latent": np.concatenate([image, label], axis=1) + position[:, None, None, None]}

    def aggregator_encode(self, slices: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"latent": slices.sum(axis=1)}

    def inputs(self, component: str) -> list[dict[str, NDArray[Any]]]:
        return [inputs for name, inputs in self.calls if name == component]


@pytest.fixture
def latents() -> NDArray[np.float32]:
    return (2 * np.random.default_rng(0).standard_normal((DEPTH, 2 + CLASSES, SIDE, SIDE))).astype(np.float32)


def test_the_refiner_sees_the_clipped_image_and_the_drawn_labels(latents: NDArray[np.float32]) -> None:
    networks = Networks()
    decoded = decode_slices(networks.run, latents, refined=True)
    logits = latents[:, 2:] + np.arange(DEPTH)[:, None, None, None]
    label = one_hot_labels(logits.argmax(axis=1), CLASSES)
    (given,) = networks.inputs("refiner")
    np.testing.assert_array_equal(given["image"][0], np.clip(latents[:, :2], -1, 1))
    np.testing.assert_array_equal(given["label"][0], label)
    np.testing.assert_array_equal(decoded.coarse, given["image"][0])
    np.testing.assert_array_equal(decoded.image, decoded.coarse * np.float32(0.5) + label[:, 1:])
    np.testing.assert_allclose(decoded.label_logits, logits)


def test_every_slice_is_decoded_once_with_its_position(latents: NDArray[np.float32]) -> None:
    for at_once in (1, 8, DECODER_SLICES, DEPTH, 100):
        networks = Networks()
        decoded = decode_slices(networks.run, latents, refined=False, at_once=at_once)
        calls = networks.inputs("decoder")
        assert [len(call["latent"]) for call in calls][:-1] == [at_once] * (len(calls) - 1)
        np.testing.assert_array_equal(np.concatenate([call["position"] for call in calls]), np.arange(DEPTH))
        np.testing.assert_array_equal(decoded.image, latents[:, :2])
        assert not networks.inputs("refiner")


def test_a_case_is_encoded_slice_by_slice(latents: NDArray[np.float32]) -> None:
    networks = Networks()
    image, label = latents[:, :2], latents[:, 2:]
    volume = encode_volume(networks.run, image, label)
    np.testing.assert_allclose(volume, (latents + np.arange(DEPTH)[:, None, None, None]).sum(axis=0), rtol=1e-5)
    assert [len(call["image"]) for call in networks.inputs("encoder")] == [DECODER_SLICES, DEPTH - DECODER_SLICES]


def test_a_volume_loses_its_small_components_and_says_what_is_wrong() -> None:
    latents = np.random.default_rng(1).uniform(-0.9, 0.9, (DEPTH, 2 + CLASSES, SIDE, SIDE)).astype(np.float32)
    latents[:, 2:] = np.array([1, 0, 0], np.float32)[:, None, None] - np.arange(DEPTH)[:, None, None, None]
    latents[:15, 3, 1:3, 1:3], latents[20, 4, 0, 0] = 5, 30
    decoded = decode_slices(Networks().run, latents, refined=False)
    volume = assemble_volume(REQUEST, decoded, True, 0.02)
    assert (volume.number, volume.attempt, volume.fault) == (4, 2, None)
    assert (volume.label[1:3, 1:3, :15] == 1).all()
    assert volume.label[0, 0, 20] == 0 != decoded.label_logits[20, :, 0, 0].argmax()
    assert assemble_volume(REQUEST, decoded, False, 0.02).fault == NOT_FINITE
    for tensor in (decoded.image, decoded.label_logits):
        kept, tensor[0, 0, 0, 0] = float(tensor[0, 0, 0, 0]), np.nan
        assert assemble_volume(REQUEST, decoded, True, 0.02).fault == NOT_FINITE
        tensor[0, 0, 0, 0] = kept


def test_a_volume_is_background_beside_its_brain() -> None:
    latents = np.full((DEPTH, 2 + CLASSES, SIDE, SIDE), -1, np.float32)
    latents[:, 2:] = np.array([1, 0, 0], np.float32)[:, None, None] - np.arange(DEPTH)[:, None, None, None]
    latents[4:12, :2, 1:3, 1:3] = np.linspace(0.1, 0.6, 8)[:, None, None, None]
    latents[18, 1, 0, 3] = 0.5
    volume = assemble_volume(REQUEST, decode_slices(Networks().run, latents, refined=False), True, 0.02)
    assert volume.image[:, 0, 3, 18].tolist() == [0, 0]
    assert (volume.image[:, 1:3, 1:3, 4:12] > 0).all()
    assert volume.fault is None


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([0, 0, 0, 0], "modality 1 is blank"),
        ([7, 7, 7, 0], "modality 1 is blank"),
        ([1000, 1000, 1000, 999], "modality 1 is saturated"),
        ([1000, 1000, 500, 999], None),
    ],
)
def test_faults_of_an_image(values: list[int], fault: str | None) -> None:
    image = np.array([[1, 2, 3, 4], values], np.int16).reshape(2, 4, 1, 1)
    assert image_fault(image_statistics(image)) == fault

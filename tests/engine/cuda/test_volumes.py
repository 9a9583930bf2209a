"""Decoding, assembling and copying out behind the sampling loop, two batches in flight, on a stand-in device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.engine.cuda.loop import SamplingLoop
from sbldm.engine.cuda.volumes import DecodingShape, VolumeDecoder, VolumeGenerator
from sbldm.engine.errors import DeviceMemoryError
from sbldm.kernels.assemble import assemble, one_hot
from sbldm.kernels.statistics import image_statistics

from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


def generator(toy: Any, folder: Path, samples: int, memory: int = 2**31) -> tuple[VolumeGenerator, HostDevice]:
    device = HostDevice(folder, memory)
    loop = toy.shape(samples)
    decoding, streams = DecodingShape(toy.volume, (4, 2, 2), 0.3, at_once=1), (device.stream(), device.stream())
    return VolumeGenerator(device, toy.components(device), loop, decoding, streams, True), device


def latent_of(toy: Any, folder: Path, request: Any) -> np.ndarray:
    device = HostDevice(folder)
    stream = device.stream()
    shape = toy.shape(request.samples.size)
    loop = SamplingLoop(device, toy.components(device)["denoiser"], shape, False)
    loop.sample(request, toy.plan(), stream)
    latent = np.empty(loop.latent.shape, np.float32)
    device.download(loop.latent, latent, stream)
    return latent


def test_volumes_are_those_of_the_references(toy: Any, kernel_folder: Path) -> None:
    volumes, device = generator(toy, kernel_folder, 2)
    for first in (0, 2, 4, 6, 8):
        request = toy.batch(first)
        result = volumes.collect(volumes.start(request, toy.plan()))
        assert result.batch is request
        slices = latent_of(toy, kernel_folder, request).transpose(0, 2, 1, 3, 4).reshape(-1, 4, 2, 2)
        image, logits = toy.run("decoder", latent=slices, position=np.tile(np.arange(3), 2))
        shape = (2, 3, -1, 4, 4)
        (refined,) = toy.run(
            "refiner", image=np.clip(image, -1, 1).reshape(shape), label=one_hot(logits).reshape(shape)
        )
        images, labels = assemble(refined.reshape(image.shape), logits, 3, 0.3)
        np.testing.assert_array_equal(result.images, images)
        np.testing.assert_array_equal(result.labels, labels)
        np.testing.assert_array_equal(result.statistics, [image_statistics(image) for image in images])
        assert not result.failed.any()
    assert device.log.count("capture") == 2


def test_two_batches_are_under_way_and_a_third_takes_the_place_of_the_first(toy: Any, kernel_folder: Path) -> None:
    volumes, device = generator(toy, kernel_folder, 1)
    plan = toy.plan()
    expected = [volumes.collect(volumes.start(toy.batch(first, 1), plan)).images for first in range(3)]
    device.log.clear()
    first, second = (volumes.start(toy.batch(k, 1), plan) for k in range(2))
    assert device.log.count("replay") == 2
    assert "synchronize" not in device.log
    third = volumes.start(toy.batch(2, 1), plan)
    np.testing.assert_array_equal(volumes.collect(third).images, expected[2])
    np.testing.assert_array_equal(volumes.collect(second).images, expected[1])
    for lost in (first, second):
        with pytest.raises(ValueError, match="was collected"):
            volumes.collect(lost)


def test_slots_that_are_padding_are_not_decoded(toy: Any, kernel_folder: Path) -> None:
    volumes, device = generator(toy, kernel_folder, 2)
    whole = volumes.collect(volumes.start(toy.batch(0), toy.plan()))
    device.log.clear()
    part = toy.batch(0)
    part.condition_mask[0] = 0.0
    made = volumes.collect(volumes.start(part, toy.plan()))
    assert device.log.count("assemble") == 1
    np.testing.assert_array_equal(made.images[1], whole.images[1])
    np.testing.assert_array_equal(made.failed, [False, False])


def test_positions_of_each_chunk_begin_an_allocation(toy: Any, kernel_folder: Path) -> None:
    """TensorRT takes addresses that are multiples of 256 bytes, which sixteen positions of 8 bytes are not."""

    class Noted:
        def __init__(self, network: Any) -> None:
            self.network, self.seen = network, list[tuple[int, list[int]]]()

        def enqueue(self, inputs: Any, outputs: Any, stream: Any) -> None:
            position = inputs["position"]
            self.seen.append((position.address - position.owner.ctypes.data, position.owner.tolist()))
            self.network.enqueue(inputs, outputs, stream)

    device = HostDevice(kernel_folder)
    parts, stream = toy.components(device), device.stream()
    noted = parts["decoder"] = Noted(parts["decoder"])
    decoder = VolumeDecoder(device, parts, DecodingShape(toy.volume, (4, 2, 2), 0.3, at_once=1))
    decoder.start(stream)
    shapes = {"images": ((1, 2, 4, 4, 3), "int16"), "labels": ((1, 4, 4, 3), "uint8"), "failed": ((1,), "uint32")}
    outputs = {name: device.allocate(*shape) for name, shape in shapes.items()}
    outputs["statistics"] = device.allocate((1, 2, 4), "int32")
    decoder.decode(device.allocate((1, *toy.latent), "float32"), outputs, [0], stream)
    assert noted.seen == [(0, [0]), (0, [1]), (0, [2])]


def test_a_refiner_is_optional_and_the_others_are_not(toy: Any, kernel_folder: Path) -> None:
    device = HostDevice(kernel_folder)
    parts = toy.components(device)
    shape = DecodingShape(toy.volume, (4, 2, 2), 0.3, at_once=1)
    VolumeDecoder(device, {name: parts[name] for name in ("aggregator", "decoder")}, shape)
    with pytest.raises(ValueError, match="needs an aggregator and a decoder, not only decoder"):
        VolumeDecoder(device, {"decoder": parts["decoder"]}, shape)


def test_no_room_is_told(toy: Any, kernel_folder: Path) -> None:
    with pytest.raises(DeviceMemoryError, match="no room for"):
        generator(toy, kernel_folder, 16, memory=20_000)

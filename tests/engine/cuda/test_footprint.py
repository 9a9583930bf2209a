"""Memory by buffer: exact where we allocate, told before anything is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.footprint import default_samples, footprint, require_room
from sbldm.engine.errors import DeviceMemoryError
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.request import GenerateRequest

from tests.support.host_device import HostDevice

MIB = 2**20
STAGE_SHARES = {"mask_denoiser": 1.0, "denoiser": 0.5, "decoder": 0.5}


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
@pytest.mark.parametrize(("samples", "guidance"), [(1, 1.0), (3, 1.0), (2, 2.0)])
def test_the_table_is_what_the_loop_allocates(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any, samples: int, guidance: float
) -> None:
    device = HostDevice(kernel_folder)
    before, total = device.memory()
    options = GenerateRequest(bundle=tiny_bundle, count=1, steps=1, guidance=guidance).options()
    loop = open_loop(tiny_bundle, host_backend(tiny_bundle, device), options, samples)
    assert before == total
    assert sum(footprint(tiny_bundle, samples, guidance != 1.0).buffers.values()) == total - device.memory()[0]
    del loop


def test_a_card_that_is_too_small_is_refused_before_anything_is_allocated(
    tiny_bundle: Bundle, host_backend: Any, tmp_path: Path
) -> None:
    needed = footprint(tiny_bundle, 64, guided=False)
    least = sum(needed.buffers.values()) + needed.networks["weights"]
    require_room(tiny_bundle, 64, False, least, least)
    with pytest.raises(DeviceMemoryError, match=r"a batch of 64 needs more than \d+ MiB.*smaller --batch-size") as told:
        require_room(tiny_bundle, 64, False, least - 1, 80 * 2**30)
    assert "2 x images" in str(told.value)
    assert "of 81920 MiB free" in str(told.value)
    with pytest.raises(DeviceMemoryError, match=r"one sample needs \d+ MiB: take another GPU"):
        require_room(tiny_bundle, 64, False, 1000, 2000)

    class Barred(HostDevice):
        def allocate(self, shape: tuple[int, ...], dtype: str) -> Any:
            raise AssertionError("allocated")

    options = GenerateRequest(bundle=tiny_bundle, count=1, steps=1).options()
    with pytest.raises(DeviceMemoryError, match="batch size 64 does not fit: a batch of 64 needs more"):
        open_loop(tiny_bundle, host_backend(tiny_bundle, Barred(tmp_path, memory=least - 1)), options, 64)


def test_the_default_fits_into_half_of_a_card_and_shrinks_with_it(tiny_bundle: Bundle) -> None:
    found = [default_samples(tiny_bundle, False, memory) for memory in (2**40, 12 * MIB, 8 * MIB, 6 * MIB, 1)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (32, 1)
    assert 1 < found[2] < 32
    for samples, memory in zip(found[1:4], (12 * MIB, 8 * MIB, 6 * MIB), strict=True):
        assert footprint(tiny_bundle, samples, False).total <= memory / 2
        assert footprint(tiny_bundle, 2 * samples, False).total > memory / 2


def test_the_mask_denoiser_computes_in_fp32_in_16_bits_too(tiny_mask_first_bundle: Bundle) -> None:
    plain, low = (footprint(tiny_mask_first_bundle, 2, False, name).networks for name in ("fp32", "fp16"))
    shares = {name: low[name] / size for name, size in plain.items() if "activations" in name}
    assert shares == {f"{name} activations (estimate)": share for name, share in STAGE_SHARES.items()}

"""The part of a latent that is made anew, and the part that is known."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import UsageError
from sbldm.engine.model_runs import RunTerminatedError
from sbldm.engine.sampling.blend import Place, blended, core_of, distance_mm
from sbldm.engine.sampling.host import HostLoop
from sbldm.engine.sampling.insert import KNOWN_DRAW, InsertedVolume, InsertLoop
from sbldm.engine.sampling.insert_case import InsertCase, check_volumes, scan_label
from sbldm.engine.sampling.model import model_of
from sbldm.engine.sampling.scan_noise import NUMBERS
from sbldm.engine.sampling.types import SampleRequest, SamplingOptions
from sbldm.engine.scans.insert_scan import InsertWishes, plan_insert
from sbldm.engine.scans.options import ReadOptions
from sbldm.engine.scans.scan import open_scan
from sbldm.kernels.noise import standard_normal

from tests.support.scans import arrays, save, write_case

STEPS, SEED = 3, 9


@pytest.fixture(scope="module")
def case(tiny_mask_first_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> InsertCase:
    folder = tmp_path_factory.mktemp("insert")
    scan = write_case(folder, "P1")
    save(folder / "masks" / "M" / "M_seg.nii.gz", arrays(tumour=(-30.0, 5.0, 5.0))["seg"])
    wishes = InsertWishes(True, False, masks=folder / "masks", margin_mm=10.0)
    opened = open_scan(scan, tiny_mask_first_bundle, ReadOptions())
    return plan_insert(opened, tiny_mask_first_bundle, wishes, ReadOptions()).case


class Spied:
    """A bundle's components, and what its denoiser was shown."""

    def __init__(self, bundle: Bundle) -> None:
        self._backend = choose_backend(bundle, "onnxruntime", "cpu", "auto", 1, 1)
        self.shown: list[tuple[float, NDArray[np.float32]]] = []

    def __call__(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[np.float32]]:
        if component == "denoiser":
            self.shown.append((float(inputs["timestep"][0]), inputs["sample"][0].copy()))
        return self._backend.run(component, inputs)


class Ended(Spied):
    """The same; the first run of one of them is ended, as one is that takes too long."""

    def __init__(self, bundle: Bundle, component: str) -> None:
        super().__init__(bundle)
        self._ended = {component}

    def __call__(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[np.float32]]:
        if component in self._ended:
            self._ended.clear()
            raise RunTerminatedError(f"{component}: ended before it was done")
        return super().__call__(component, inputs)


def opened(bundle: Bundle, case: InsertCase, run: Spied, *, at_once: bool) -> InsertLoop:
    options = SamplingOptions(STEPS, "ddim", 0.0, 1.0, SEED, 4)
    loop = HostLoop(model_of(bundle.manifest), run, options)
    return InsertLoop(loop, case, bundle.manifest.condition_columns, at_once=at_once)


def made(
    bundle: Bundle, case: InsertCase, numbers: list[int], *, at_once: bool = True
) -> tuple[list[InsertedVolume], Spied, InsertLoop]:
    run, manifest = Spied(bundle), bundle.manifest
    loop = opened(bundle, case, run, at_once=at_once)
    blank = np.zeros(len(manifest.condition_columns), np.float32)
    volumes = loop.start([SampleRequest(number, 0, blank) for number in numbers])()
    assert all(isinstance(volume, InsertedVolume) for volume in volumes)
    return volumes, run, loop  # type: ignore[return-value]


def test_before_each_step_known_cells_are_the_scan_noised_to_it(
    tiny_mask_first_bundle: Bundle, case: InsertCase
) -> None:
    _, run, loop = made(tiny_mask_first_bundle, case, [5])
    clean, table = loop._scan().clean, tiny_mask_first_bundle.manifest.schedule.alphas_cumprod
    assert len(run.shown) == STEPS
    before = np.zeros(clean.shape[1:], bool)
    for step, (timestep, state) in enumerate(run.shown):
        noise = standard_normal(SEED, 5, KNOWN_DRAW + step, clean.size).reshape(clean.shape)
        signal = table[int(timestep)]
        known = np.sqrt(signal) * clean + np.sqrt(1 - signal) * noise
        same = np.abs(state - known).max(axis=0) < 1e-5
        assert 0.2 < same.mean() < 0.95
        assert step == 0 or np.array_equal(same, before)
        before = same
    free = ~before
    first = standard_normal(SEED, 5, 0, clean.size).reshape(clean.shape)
    assert np.abs(run.shown[0][1] - first)[:, free].max() < 1e-5


def test_a_sample_does_not_depend_on_its_neighbours(tiny_mask_first_bundle: Bundle, case: InsertCase) -> None:
    alone, _, _ = made(tiny_mask_first_bundle, case, [6])
    beside, _, _ = made(tiny_mask_first_bundle, case, [5, 6])
    for one, other in zip(alone[0].patch.values, beside[1].patch.values, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(beside[0].patch.values[0], beside[1].patch.values[0])


@pytest.mark.parametrize("effect", [False, True], ids=["still", "pushed"])
def test_what_runs_at_once_gives_what_runs_in_turn(
    tiny_mask_first_bundle: Bundle, case: InsertCase, effect: bool
) -> None:
    case = replace(case, has_mass_effect=effect)
    beside, _, _ = made(tiny_mask_first_bundle, case, [5, 6])
    in_turn, _, _ = made(tiny_mask_first_bundle, case, [5, 6], at_once=False)
    for one, other in zip(beside, in_turn, strict=True):
        assert np.array_equal(one.image, other.image)
        assert all(np.array_equal(a, b) for a, b in zip(one.patch.values, other.patch.values, strict=True))


@pytest.mark.parametrize("component", ["encoder", "aggregator"])
def test_a_look_at_the_scan_that_was_ended_is_taken_again(
    tiny_mask_first_bundle: Bundle, case: InsertCase, component: str
) -> None:
    run = Ended(tiny_mask_first_bundle, component)
    loop = opened(tiny_mask_first_bundle, case, run, at_once=True)
    request = SampleRequest(5, 0, np.zeros(len(tiny_mask_first_bundle.manifest.condition_columns), np.float32))
    with suppress(RunTerminatedError):
        loop.start([request])()
    (again,) = loop.start([request])()
    (whole,), _, _ = made(tiny_mask_first_bundle, case, [5])
    assert isinstance(again, InsertedVolume)
    assert np.array_equal(again.patch.values[0], whole.patch.values[0])


def test_a_picture_that_stays_leaves_the_scan_and_a_core_gets_its_noise(
    tiny_mask_first_bundle: Bundle, case: InsertCase
) -> None:
    grid, case = tiny_mask_first_bundle.manifest.grid, replace(case, margin_mm=24.0)
    new = case.given[0].scan.label()
    flat = np.full((len(case.files), *grid.shape), 0.5, np.float32)
    normals = np.random.default_rng(0).standard_normal((len(case.files), NUMBERS)).astype(np.float32)
    place = Place.of(case, new)
    patch = blended(case, grid, place, new, flat, flat, 0, normals)
    core = core_of(new[place.box])
    deep = distance_mm(~core, case.spacing_mm) > 6
    for file, values in zip(case.files, patch.values, strict=True):
        own = file.values(place.box)
        outside = patch.changed & (place.distance > 8)
        assert np.allclose(values[outside], own[outside], rtol=1e-3)
        residual = own[patch.changed & (place.distance > 0)]
        assert 0.5 < values[deep].std() / (1.4826 * np.median(np.abs(residual - np.median(residual)))) < 2
    far = distance_mm(new > 0, case.spacing_mm)[place.box] >= case.margin_mm
    assert far.any()
    assert not (patch.changed & far).any()
    assert np.array_equal(place.label == 0, (new == 0) & (case.own.scan.label() == 0))


def test_labels_that_hold_each_other_do_so_on_the_scan(case: InsertCase, tiny_mask_first_bundle: Bundle) -> None:
    grid = tiny_mask_first_bundle.manifest.grid
    small, large = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    large[8:14, 12:19, 5:10] = 2
    large[9:13, 13:18, 6:9] = 3
    small[9:12, 13:16, 6:9] = 2
    small[10, 14, 7] = 3
    one, other = (scan_label(label, grid, case.voxels) for label in (small, large))
    for tissues in ((1, 2, 3), (1, 3)):
        assert not (np.isin(one, tissues) & ~np.isin(other, tissues)).any()
    assert np.count_nonzero(one)


@pytest.mark.parametrize(
    "volumes", [(), (5.0, 4.0), (0.0, 3.0), (1.0, float("inf"))], ids=["none", "falls", "zero", "endless"]
)
def test_volumes_that_do_not_rise_are_refused(volumes: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="--volumes"):
        check_volumes(volumes)

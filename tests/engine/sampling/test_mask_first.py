"""The mask-first form against its steps written out in plain NumPy, and its rules one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.anatomy.draw import Field, drawn_shares
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.bundle.manifest import MaskFirst
from sbldm.engine.conditions.columns import COLUMNS, normalise
from sbldm.engine.mask_solver import noise_size, solve_mask
from sbldm.engine.sampling import mask_first
from sbldm.engine.sampling.decoding import NOT_FINITE
from sbldm.engine.sampling.host import HostLoop
from sbldm.engine.sampling.mask_first import MaskFirstModel
from sbldm.engine.sampling.model import model_of
from sbldm.engine.sampling.sdedit import AugmentLoop, SourceCase
from sbldm.engine.sampling.slabs import brain_of, decode_slabs, masked_volume, unit_image
from sbldm.engine.sampling.types import Backend, SampleRequest, SamplingOptions
from sbldm.kernels.noise import standard_normal
from scipy import ndimage

SEED, NUMBER, ATTEMPT, STEPS, GUIDANCE = 2**40 + 3, 5, 2, 3, 2.0
ROW = {
    "volume_ml": 21.3, "surface_cm2": 45.0, "sphericity": 0.8, "x": 0.45, "y": 0.5, "z": 0.55,
    "w": 0.2, "h": 0.2, "d": 0.25, "ncr_share": 0.25, "ed_share": 0.45, "et_share": 0.3,
}  # fmt: skip
VOXEL_ML = 6.0 * 6.0 * 9.6 / 1000


@pytest.fixture(scope="module")
def backend(tiny_mask_first_bundle: Bundle) -> Backend:
    return choose_backend(tiny_mask_first_bundle, "onnxruntime", threads=1)


class Spy:
    """Computes by a backend and keeps the calls."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.calls = backend, list[tuple[str, dict[str, NDArray[Any]]]]()

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.calls.append((component, dict(inputs)))
        return self.backend.run(component, inputs)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def request(bundle: Bundle, number: int = NUMBER, attempt: int = ATTEMPT, **more: Any) -> SampleRequest:
    wanted = np.array([ROW[name] for name in COLUMNS])
    return SampleRequest(number, attempt, normalise(wanted[None], bundle.manifest.condition_columns)[0], wanted, **more)


def options(eta: float = 1.0, guidance: float = GUIDANCE, batch: int = 1) -> SamplingOptions:
    return SamplingOptions(STEPS, "ddim", eta, guidance, SEED, batch)


def written_out(
    bundle: Bundle, backend: Backend, solved: Callable[..., NDArray[np.uint8]]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(image (M, X, Y, Z) in 0..1, label) of sample `NUMBER` at `ATTEMPT`: every stage from its formula.

    `solved` gives the label of the solver's arguments.
    """
    form, table = bundle.manifest.mask_first, np.array(bundle.manifest.schedule.alphas_cumprod)
    assert form is not None

    def noise(shape: tuple[int, ...], draw: int) -> NDArray[np.float64]:
        values = standard_normal(SEED, NUMBER, draw + 65536 * ATTEMPT, int(np.prod(shape)))
        return values.reshape(1, *shape).astype(float)

    def ddim(name: str, shape: tuple[int, ...], told: dict, base: int, steps: int, eta: float, g: float) -> NDArray:
        times = np.round(len(table) - np.arange(steps) * len(table) / steps).astype(int) - 1
        state = noise(shape, base)
        for k, t in enumerate(times):
            a, later = table[t], table[times[k + 1]] if k + 1 < steps else 1.0
            feeds = {"sample": state.astype(np.float32), "timestep": np.full(1, t, np.float32), **told}
            v, u = (
                backend.run(name, {**feeds, "condition_mask": np.full(1, shown, np.float32)})["prediction"]
                for shown in (1, 0)
            )
            v = u + g * (v - u)
            clean, fresh = np.sqrt(a) * state - np.sqrt(1 - a) * v, np.sqrt(1 - a) * state + np.sqrt(a) * v
            s = eta * np.sqrt((1 - later) / (1 - a)) * np.sqrt(max(1 - a / later, 0.0))
            state = np.sqrt(later) * clean + np.sqrt(max(1 - later - s**2, 0.0)) * fresh
            if s > 0:
                state = state + s * noise(shape, base + k + 1)
        return state

    row = request(bundle)
    stage = form.mask_sampling
    maps = ddim(
        "mask_denoiser", form.mask_maps.shape, {"condition": row.condition[None]}, 2**31, stage.steps, stage.eta,
        stage.guidance,
    )[0]  # fmt: skip
    maps = maps * np.array(form.mask_maps.std)[:, None, None, None]
    maps += np.array(form.mask_maps.mean)[:, None, None, None]
    grid = bundle.manifest.grid
    surface = standard_normal(SEED, NUMBER, 2**31 + 32768 + 65536 * ATTEMPT, noise_size(grid.shape))
    label = solved(maps.astype(np.float32), row.wanted, grid.shape, grid.spacing_mm, surface)
    draft = draft_written_out(bundle, label)
    told = {
        "tissues": np.stack([label.transpose(2, 0, 1) == k for k in (1, 2, 3)])[None].astype(np.float32),
        "draft": encoded(bundle, backend, draft),
        "source": np.full(1, form.source, np.float32),
    }
    latent = ddim("denoiser", bundle.manifest.latent.shape, told, 0, STEPS, 1.0, GUIDANCE).astype(np.float32)
    made = backend.run("decoder", {"features": backend.run("aggregator", {"latent": latent})["features"][0]})
    x, y, z = grid.shape
    coarse = made["image"].reshape(z, 4, x, y).clip(-1, 1)
    image = backend.run("refiner", {"image": coarse[None], "draft": draft[None]})["refined"][0].transpose(1, 2, 3, 0)
    brain = made["brain"].reshape(z, x, y).transpose(1, 2, 0)
    pieces, _ = ndimage.label((brain > 0) | (label > 0))  # pyright: ignore[reportGeneralTypeIssues]
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    filled = np.asarray(ndimage.binary_fill_holes(largest), bool)
    return np.where(filled, np.clip((image + 1) / 2 + grain_written_out(form, image), 1 / 255, 1), 0), label


def grain_written_out(form: MaskFirst, image: NDArray[np.float32]) -> NDArray[np.float64]:
    """What is added to an image in -1..1: smoothed normals whose deviation goes with the signal, 0..1."""
    normals = standard_normal(SEED, NUMBER, 2**31 + 32770 + 65536 * ATTEMPT, 1 + image.size).astype(np.float64)
    noise = normals[1:].reshape(image.shape)
    for axis, middle in ((1, 3), (2, 2), (3, 3)):
        around = np.roll(noise, 1, axis) + middle * noise + np.roll(noise, -1, axis)
        noise = around / np.sqrt(middle**2 + 2)
    signal = ((image + 1) / 2).clip(0, 1)
    dark, bright = (np.array(side)[:, None, None, None] for side in zip(*form.grain, strict=True))
    return np.exp(0.15 * normals[0]) * (dark * (1 - signal) + bright * signal) * noise


def draft_written_out(bundle: Bundle, label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(z, M, x, y): a brain drawn around the label, each tissue in its level."""
    form, grid = bundle.manifest.mask_first, bundle.manifest.grid
    assert form is not None
    field = Field(grid.shape, grid.spacing_mm)
    normals = standard_normal(SEED, NUMBER, 2**31 + 32769 + 65536 * ATTEMPT, field.numbers)
    shares = [share * (label == 0) for share in drawn_shares(normals, label, field)] + [label == k for k in (1, 2, 3)]
    image = np.round(255 * np.einsum("sxyz,sm->zmxy", np.stack(shares), np.array(form.draft_levels))) / 127.5 - 1
    return image.astype(np.float32)


def encoded(bundle: Bundle, backend: Backend, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The latent (1, C, S, h, w) of an image (z, M, x, y)."""
    slabs = image.reshape(len(image) // 4, -1, *image.shape[2:])
    features = backend.run("encoder", {"image": slabs})["features"]
    return backend.run("aggregator_encode", {"features": features[None]})["latent"]


def test_without_a_refiner_the_decoders_image_is_finished(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    model = model_of(tiny_mask_first_bundle.manifest)
    assert isinstance(model, MaskFirstModel)
    assert model.rows(1)["refiner"] == {1}
    plain = replace(model, refined=False)
    assert "refiner" not in plain.rows(1)
    asked = request(tiny_mask_first_bundle, label=np.pad(np.ones((8, 8, 4), np.uint8), ((10, 14), (12, 12), (6, 6))))
    spy = Spy(backend)
    images = [HostLoop(one, spy.run, options()).start([asked])()[0].image for one in (model, plain)]
    assert spy.names().count("refiner") == 1
    assert np.abs(images[0].astype(int) - images[1]).max() > 20


def test_a_volume_is_what_its_steps_written_out_give(
    tiny_mask_first_bundle: Bundle, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label is that of the engine's maps: the solver's choices hang on the last bit of maps that equal ours."""
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(mask_first, "solve_mask", lambda *arguments: given.append(arguments) or solve_mask(*arguments))
    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), backend.run, options())
    (made,) = loop.start([request(tiny_mask_first_bundle)])()

    def solved(*arguments: Any) -> NDArray[np.uint8]:
        np.testing.assert_allclose(given[0][0], arguments[0], atol=1e-3)
        for ours, theirs in zip(arguments[1:], given[0][1:], strict=True):
            np.testing.assert_array_equal(theirs, ours)
        return solve_mask(*given[0]).label

    image, label = written_out(tiny_mask_first_bundle, backend, solved)
    assert made.fault is None
    assert np.array_equal(made.label, label)
    assert np.abs(made.image / 1000 - image).max() < 0.003
    assert np.array_equal((made.image > 0).any(axis=0), (image > 0).any(axis=0))


def test_tissues_are_those_asked_for_to_the_voxel(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), backend.run, options(guidance=1.0))
    (made,) = loop.start([request(tiny_mask_first_bundle)])()
    whole = round(ROW["volume_ml"] / VOXEL_ML)
    ncr, et = round(ROW["ncr_share"] * whole), round(ROW["et_share"] * whole)
    assert np.bincount(made.label.ravel(), minlength=4)[1:].tolist() == [ncr, whole - ncr - et, et]


def test_a_sample_is_the_same_in_any_company(
    tiny_mask_first_bundle: Bundle, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), backend.run, options(guidance=1.0, batch=2))
    both = [request(tiny_mask_first_bundle, number, 0) for number in (4, 5)]
    together = loop.start(both)()
    monkeypatch.delattr(threading.Thread, "start")  # one sample starts none: its memory stays with the one that calls
    (alone,) = loop.start(both[1:])()
    assert together[1].image.tobytes() == alone.image.tobytes()
    assert together[1].label.tobytes() == alone.label.tobytes()
    assert together[0].image.tobytes() != alone.image.tobytes()


def test_a_given_mask_is_kept_and_none_is_drawn(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    label = np.zeros(tiny_mask_first_bundle.manifest.grid.shape, np.uint8)
    label[10:14, 12:15, 5:8] = 2
    label[11:13, 13, 6] = (3, 1)
    spy = Spy(backend)
    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), spy.run, options(guidance=1.0, batch=2))
    given = request(tiny_mask_first_bundle, 4, 0, label=label)
    (alone,) = loop.start([given])()
    assert "mask_denoiser" not in spy.names()
    assert np.array_equal(alone.label, label)
    assert (alone.image[:, label > 0] > 0).all()
    beside = loop.start([given, request(tiny_mask_first_bundle, 5, 0)])()
    assert spy.names().count("mask_denoiser") == 20
    assert beside[0].image.tobytes() == alone.image.tobytes()


def test_a_drawn_mask_that_is_given_back_gives_the_same_image(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    """The image stage knows nothing of where a mask comes from; those of a batch are solved at once."""
    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), backend.run, options(guidance=1.0, batch=2))
    asked = [request(tiny_mask_first_bundle, number, 0) for number in (4, 5)]
    drawn = loop.start(asked)()
    given = loop.start([replace(one, label=made.label) for one, made in zip(asked, drawn, strict=True)])()
    for one, other in zip(drawn, given, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.label.tobytes() == other.label.tobytes()
    assert not np.array_equal(drawn[0].label, drawn[1].label)


def test_maps_that_are_not_finite_are_a_fault(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    def run(component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        made = backend.run(component, inputs)
        return {name: value * np.nan for name, value in made.items()} if component == "mask_denoiser" else made

    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), run, options(guidance=1.0))
    (made,) = loop.start([request(tiny_mask_first_bundle)])()
    assert made.fault == NOT_FINITE


def test_the_decoder_gives_the_same_in_any_chunks(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    shape = tiny_mask_first_bundle.manifest.components["decoder"].inputs[0].shape[1:]
    features = np.random.default_rng(1).standard_normal((4, *(int(n) for n in shape))).astype(np.float32)
    whole = decode_slabs(backend.run, features, 4, at_once=4)
    assert whole[0].shape == (16, 4, 32, 32)
    for at_once in (1, 3):
        for expected, made in zip(whole, decode_slabs(backend.run, features, 4, at_once=at_once), strict=True):
            np.testing.assert_allclose(made, expected, atol=1e-5)


def test_a_case_is_encoded_slab_by_slab(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    """With the channels in the decoder's order, and one slab's features from its own slices alone."""
    image = np.random.default_rng(2).uniform(-1, 1, (16, 4, 32, 32)).astype(np.float32)
    spy = Spy(backend)
    latent = model_of(tiny_mask_first_bundle.manifest).encode(spy.run, image, np.zeros((16, 32, 32), np.uint8))
    assert latent.shape == tiny_mask_first_bundle.manifest.latent.shape
    slabs = np.concatenate([inputs["image"] for name, inputs in spy.calls if name == "encoder"])
    for slab, slice_, modality in ((0, 0, 0), (2, 3, 1), (3, 1, 2)):
        np.testing.assert_array_equal(slabs[slab, slice_ * 4 + modality], image[slab * 4 + slice_, modality])


@pytest.mark.parametrize(("strength", "drawn", "steps"), [(0.0, 0, 0), (0.7, 20, 2), (1.0, 20, 3)])
def test_augment_takes_its_share_of_the_steps(
    tiny_mask_first_bundle: Bundle, backend: Backend, strength: float, drawn: int, steps: int
) -> None:
    """Without steps the case's own mask stays, else a new one is drawn."""
    image = np.zeros((4, 32, 32, 16), np.int16)
    image[:, 4:28, 4:28, 2:14] = np.random.default_rng(3).integers(100, 900, (4, 24, 24, 12))
    label = np.zeros((32, 32, 16), np.uint8)
    label[10:14, 12:15, 5:8] = 2
    spy = Spy(backend)
    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), spy.run, options(guidance=1.0))
    (made,) = AugmentLoop(loop, SourceCase(image, label, strength)).start([request(tiny_mask_first_bundle)])()
    assert (spy.names().count("mask_denoiser"), spy.names().count("denoiser")) == (drawn, steps)
    assert spy.names().count("aggregator_encode") == 1 + (steps > 0)  # the case, and the draft that the steps are told
    assert np.array_equal(made.label, label) == (strength == 0.0)


def test_augment_drafts_the_brain_of_the_case(tiny_mask_first_bundle: Bundle, backend: Backend) -> None:
    image = np.zeros((4, 32, 32, 16), np.int16)
    image[:, 4:28, 4:28, 2:14] = np.random.default_rng(3).integers(100, 900, (4, 24, 24, 12))
    model, spy = model_of(tiny_mask_first_bundle.manifest), Spy(backend)
    case = SourceCase(image, np.zeros((32, 32, 16), np.uint8), 0.7)
    AugmentLoop(HostLoop(model, spy.run, options(guidance=1.0)), case).start([request(tiny_mask_first_bundle)])
    drafted = [inputs["image"] for name, inputs in spy.calls if name == "encoder"][-1]
    unit = drafted.reshape(16, 4, 32, 32)
    assert ((unit > -1).any(axis=1) >= (image[0] > 0).transpose(2, 0, 1)).all()


def test_the_brain_is_the_largest_piece_without_holes() -> None:
    likely, label = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), np.uint8)
    likely[1:6, 1:6, 1:6] = True
    likely[3, 3, 3] = False  # a hole
    likely[1, 3, 3] = False  # a dent
    likely[8, 8, 8] = True  # a speck
    label[6, 3, 3] = 2  # a tumour that sticks out
    brain = brain_of(likely, label)
    assert brain[3, 3, 3]
    assert brain[6, 3, 3]
    assert not brain[1, 3, 3]
    assert not brain[8, 8, 8]
    assert brain.sum() == 5**3 - 1 + 1
    assert not brain_of(np.zeros_like(likely), np.zeros_like(label)).any()


def test_a_brain_that_touches_every_border_has_its_hole_filled() -> None:
    likely = np.ones((5, 5, 5), bool)
    likely[2, 2, 2] = False
    likely[0, 0, 0] = False
    brain = brain_of(likely, np.zeros((5, 5, 5), np.uint8))
    assert brain.sum() == 124
    assert not brain[0, 0, 0]


def test_what_is_written_is_zero_outside_and_never_zero_inside() -> None:
    image, brain = np.full((4, 2, 6, 6), -1.5, np.float32), np.full((4, 6, 6), -3.0, np.float32)
    brain[1:3, 1:5, 1:5] = 2.0
    image[2, 0, 2, 3], image[2, 1, 2, 3] = 7.0, 0.0005
    image[0, :, 0, 0] = 1.0  # bright, and no brain
    image[1, 0, 1, 1] = -0.5
    label = np.zeros((6, 6, 4), np.uint8)
    label[1, 1, 0] = 3  # below the brain: the decoder did not see one there
    made = masked_volume(SampleRequest(7, 1, np.zeros(0, np.float32)), unit_image(image), brain, label, None)
    assert (made.number, made.attempt, made.fault) == (7, 1, None)
    assert made.label is label
    assert made.image.shape == (2, 6, 6, 4)
    assert (made.image[0, 2, 3, 2], made.image[1, 2, 3, 2], made.image[0, 1, 1, 1]) == (1000, 500, 250)
    inside = (brain.transpose(1, 2, 0) > 0) | (label > 0)
    assert (made.image[:, inside] >= 4).all()
    assert (made.image[:, ~inside] == 0).all()
    for broken in (np.where(image > 6, np.nan, image), image):
        logits = brain if broken is not image else brain + np.inf
        request = SampleRequest(7, 1, np.zeros(0, np.float32))
        assert masked_volume(request, unit_image(broken), logits, label, None).fault == NOT_FINITE


def brain_as_a_whole(likely: NDArray[np.bool_], label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """`brain_of` in the whole field."""
    pieces, number = ndimage.label(likely | (label > 0))  # pyright: ignore[reportGeneralTypeIssues]
    if number == 0:
        return np.zeros(label.shape, bool)
    brain = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    outside, _ = ndimage.label(np.pad(~brain, 1, constant_values=True))  # pyright: ignore[reportGeneralTypeIssues]
    return (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.8, 1.0])
def test_a_brain_is_found_in_its_box_as_in_the_whole_field(share: float) -> None:
    random = np.random.default_rng(round(100 * share))
    for side in (slice(None), slice(3, 9)):
        likely = np.zeros((12, 14, 10), np.bool_)
        likely[side, 2:, :9] = random.random(likely[side, 2:, :9].shape) < share
        label = (random.random(likely.shape) < 0.01 * (share > 0)).astype(np.uint8)
        np.testing.assert_array_equal(brain_of(likely, label), brain_as_a_whole(likely, label))

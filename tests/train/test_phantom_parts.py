"""Parts of the phantom generator on their own."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from sbldm.engine.anatomy.anatomies import Tissue, load_anatomy
from sbldm.train.phantom import HELD_OUT, make_phantom
from sbldm.train.phantom.contrast import draw_contrast
from sbldm.train.phantom.head import Head, draw_head, push_aside
from sbldm.train.phantom.scanner import Protocol, acquire, draw_edge, draw_protocol, slice_weights
from sbldm.train.phantom.statistics import draw_place, draw_shares, draw_tumour_signal
from sbldm.train.phantom.tumour import mass_effect, plan_tumour

T1, T1CE, T2, FLAIR = range(4)


@pytest.fixture(scope="module")
def head() -> Head:
    return draw_head(np.random.default_rng(0), 7)


class _Drawn(Exception):
    """Ends a phantom as soon as its anatomy is known."""


@pytest.mark.parametrize("held_out", [False, True])
def test_training_cases_never_have_a_held_out_anatomy_nor_the_other_way_round(
    monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    seen: list[int] = []

    def drawn(rng: np.random.Generator, anatomy: int) -> NoReturn:
        seen.append(anatomy)
        raise _Drawn

    monkeypatch.setattr("sbldm.train.phantom.case.draw_head", drawn)
    for case in range(120):
        with pytest.raises(_Drawn):
            make_phantom(3, case, HELD_OUT) if held_out else make_phantom(3, case)
    assert set(seen) == (set(HELD_OUT) if held_out else set(range(1, 18)))


def test_shares_follow_the_masks() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_shares(rng) for _ in range(3000)]
    volume = np.array([d.volume_ml for d in drawn])
    core = np.array([d.core_share for d in drawn])
    enhancing = np.array([d.enhancing_of_core for d in drawn])
    assert volume.min() >= 1
    assert volume.max() <= 310
    assert abs(np.median(volume) - 90) < 8
    assert abs(np.median(core) - 0.342) < 0.02
    assert abs(np.median(enhancing) - 0.573) < 0.02
    assert 0.02 < (enhancing < 0.005).mean() < 0.12
    assert np.corrcoef(core, [d.roughness for d in drawn])[0, 1] < -0.3


def test_places_lie_in_both_hemispheres_of_the_field() -> None:
    rng = np.random.default_rng(2)
    places = np.array([draw_place(rng) for _ in range(2000)])
    assert ((places > 0.05) & (places < 0.95)).all()
    assert 0.45 < (places[:, 0] < 0.5).mean() < 0.55
    assert np.allclose(places.mean(0)[1:], (0.443, 0.513), atol=0.02)


def test_tumour_signals_are_those_of_gliomas() -> None:
    rng = np.random.default_rng(3)
    necrosis, oedema, enhancing = np.moveaxis(np.array([draw_tumour_signal(rng) for _ in range(500)]), 1, 0)
    assert np.median(enhancing[:, T1CE]) > 1.3
    assert np.median(necrosis[:, T1CE]) < 0.9
    assert np.median(oedema[:, FLAIR]) > 1.4
    assert np.median(necrosis[:, T2]) > np.median(oedema[:, T2]) > 1.4
    assert np.corrcoef(np.log(oedema[:, T2]), np.log(oedema[:, FLAIR]))[0, 1] > 0.6


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), thick=st.booleans())
def test_contrasts_keep_the_order_of_the_tissues(seed: int, thick: bool) -> None:
    means = draw_contrast(np.random.default_rng(seed), thick).means
    assert (means[1:] > 0).all()
    assert means[Tissue.WHITE, T1] > means[Tissue.CORTEX, T1] > means[Tissue.VENTRICLE, T1]
    assert means[Tissue.WHITE, T2] < means[Tissue.CORTEX, T2] < means[Tissue.VENTRICLE, T2]
    assert means[Tissue.VENTRICLE, FLAIR] < means[Tissue.WHITE, FLAIR]


@settings(max_examples=40, deadline=None)
@given(size=st.integers(20, 90), distance=st.floats(1.01, 8.0))
def test_slices_average_and_keep_constants_and_ramps(size: int, distance: float) -> None:
    weights = slice_weights(size, distance)
    assert weights.shape == (size, size)
    assert (weights >= 0).all()
    assert np.allclose(weights.sum(1), 1, atol=1e-5)
    inner = slice(int(2 * distance) + 2, size - int(2 * distance) - 2)
    ramp = np.arange(size, dtype=np.float32)
    assert np.allclose((weights @ ramp)[inner], ramp[inner], atol=0.51)


def test_thick_slices_blur_along_their_axis_only() -> None:
    rng = np.random.default_rng(4)
    brain = np.zeros((30, 30, 40), np.bool_)
    brain[3:-3, 3:-3, 3:-3] = True
    painted = rng.uniform(0.5, 1.5, (4, *brain.shape)).astype(np.float32)
    box = (slice(0, 30), slice(0, 30), slice(0, 40))
    protocol = Protocol(True, (2,) * 4, (5.0,) * 4, (0.3,) * 4, (0.001,) * 4)
    scanned = acquire(rng, protocol, painted, brain.astype(np.float32), box).astype(np.float32)
    assert (scanned[:, ~brain] == 0).all()
    assert (scanned[:, brain] >= 1).all()
    along, across = np.abs(np.diff(scanned[0], axis=2)), np.abs(np.diff(scanned[0], axis=0))
    assert along[5:-5, 5:-5, 5:-5].mean() < 0.5 * across[5:-5, 5:-5, 5:-5].mean()


def test_the_edge_fades_from_full_signal_inside_to_little_at_the_surface() -> None:
    brain = np.zeros((30, 30, 30), np.bool_)
    brain[5:-5, 5:-5, 5:-5] = True
    faint = 0
    for seed in range(20):
        edge = draw_edge(np.random.default_rng(seed), brain)
        assert (edge[~brain] == 0).all()
        assert edge[brain].min() > 0
        assert np.allclose(edge[10:-10, 10:-10, 10:-10], 1)
        faint += bool(edge[5, 15, 15] < 0.04)
    assert 4 <= faint <= 16


def test_both_kinds_of_protocol_are_drawn() -> None:
    protocols = [draw_protocol(np.random.default_rng(seed)) for seed in range(60)]
    assert 15 < sum(protocol.thick for protocol in protocols) < 45
    assert any(max(protocol.slices) > 4 for protocol in protocols)
    assert any(max(protocol.slices) == 1 for protocol in protocols)


def test_a_head_lies_inside_the_default_grid(head: Head) -> None:
    inside = head.depth > 0
    assert inside.any()
    for number in (1, 12, 16):
        posed = draw_head(np.random.default_rng(number), number)
        found = np.argwhere(posed.depth > 2) * 5.0 - 5
        low, high = found.min(0), found.max(0)
        assert (low > (24 - 8, 24 - 8, 0 - 8)).all()
        assert (high < (216 + 8, 216 + 8, 155 + 8)).all()
        assert load_anatomy(number).flags.writeable is False


def test_the_mass_effect_pushes_outward_and_leaves_the_skull(head: Head) -> None:
    plan = plan_tumour(np.random.default_rng(5), head)
    outward = mass_effect(plan, head)
    assert np.abs(outward[:, head.depth <= 0]).max() == 0
    assert np.abs(outward).max() <= plan.push * plan.radius * 1.01
    pushed = push_aside(head, outward)
    assert not np.array_equal(pushed.maps, head.maps)


@pytest.mark.parametrize("seed", range(6))
def test_tumours_start_in_tissue(head: Head, seed: int) -> None:
    plan = plan_tumour(np.random.default_rng(seed), head)
    node = np.rint(plan.centre / 5.0 + 1).astype(int)
    around = tuple(slice(n - 1, n + 2) for n in node)
    assert head.depth[around].max() > 2
    assert 200 <= plan.core <= plan.volume <= 310_000

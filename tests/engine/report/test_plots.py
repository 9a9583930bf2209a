"""Plots are well-formed, hold every point inside their frame, and call nothing from outside."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.report.plots import MAX_POINTS, histogram, scatter

value = st.floats(-1e6, 1e6, allow_subnormal=False)


def drawn(svg: str, tag: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall(f".//{tag}")


@given(st.lists(st.tuples(value, value), min_size=1, max_size=20))
def test_every_sample_is_a_point_inside(pairs: list[tuple[float, float]]) -> None:
    svg = scatter("volume", "ml", np.array(pairs), [f"<{k}>" for k in range(len(pairs))], frozenset({0}))
    points = drawn(svg, "circle")
    assert len(points) == len(pairs)
    assert points[0].get("class") == "point shown"
    assert points[0][0].text is not None
    assert points[0][0].text.startswith("<0>: requested")
    for point in points:
        assert 46 <= float(point.get("cx", "")) <= 290
        assert 10 <= float(point.get("cy", "")) <= 222


def test_right_and_up_are_more() -> None:
    points = drawn(scatter("v", "", np.array([[0.0, 5.0], [10.0, 7.0]]), ["a", "b"], frozenset()), "circle")
    assert float(points[0].get("cx", "")) < float(points[1].get("cx", ""))
    assert float(points[0].get("cy", "")) > float(points[1].get("cy", ""))


def test_equal_values_lie_on_the_line() -> None:
    svg = scatter("v", "", np.array([[2.0, 2.0], [9.0, 9.0]]), ["a", "b"], frozenset())
    line = next(one for one in drawn(svg, "line") if one.get("class") == "equal")
    x1, y1, x2, y2 = (float(line.get(name, "")) for name in ("x1", "y1", "x2", "y2"))
    for point in drawn(svg, "circle"):
        x, y = float(point.get("cx", "")), float(point.get("cy", ""))
        assert y == pytest.approx(y1 + (x - x1) / (x2 - x1) * (y2 - y1), abs=0.2)


def test_of_many_points_some_are_drawn_and_those_of_the_viewer_always() -> None:
    many = np.random.default_rng(0).normal(size=(5 * MAX_POINTS, 2))
    shown = frozenset({1, 2, 3})
    points = drawn(scatter("v", "", many, ["x"] * len(many), shown), "circle")
    assert MAX_POINTS <= len(points) <= MAX_POINTS + len(shown)
    assert sum(point.get("class") == "point shown" for point in points) == len(shown)


@given(st.lists(value, min_size=1, max_size=30), st.lists(value, min_size=1, max_size=30))
def test_bars_hold_all_cases(synthetic: list[float], real: list[float]) -> None:
    svg = histogram("volume", "ml", np.array(synthetic), np.array(real))
    told = [re.search(r"([\d.]+)%$", bar[0].text or "") for bar in drawn(svg, "rect")]
    assert sum(float(found.group(1)) for found in told if found) == pytest.approx(100, abs=0.51 * len(told))
    assert len(drawn(svg, "polyline")) == 1

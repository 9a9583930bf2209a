"""The policy of redrawing, draw by draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.run.redraw import Redraws
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.run.requests import SampleTask


@pytest.mark.parametrize(
    ("reject", "misses", "draws", "kept"),
    [
        (None, [9.0], 1, 0),
        (None, [None], 1, 0),
        (0.5, [0.5], 1, 0),  # the tolerance itself is within
        (0.5, [0.6, 0.2], 2, 1),
        (0.5, [0.9, 0.7, 0.8], 3, 1),
        (0.5, [0.7, 0.7, 0.7], 3, 0),  # the earlier of equals
        (0.5, [None, 0.9, None], 3, 1),
        (0.5, [None, None, None], 3, 2),
        (0.5, [None, 0.1], 2, 1),
    ],
)
def test_which_draw_is_kept(
    tiny_bundle: Bundle, reject: float | None, misses: list[float | None], draws: int, kept: int
) -> None:
    options = GenerateRequest(bundle=tiny_bundle, count=1, reject=reject, attempts=2).options()
    redraws: Redraws[int] = Redraws(options)
    task = SampleTask(0, "0", (), ())
    for attempt in range(draws - 1):
        again = redraws.judge(task, attempt, misses[attempt])
        assert again == replace(task, attempt=attempt + 1)
        task = again
    assert redraws.judge(task, draws - 1, misses[draws - 1]) == kept


def test_samples_do_not_mix(tiny_bundle: Bundle) -> None:
    redraws: Redraws[str] = Redraws(GenerateRequest(bundle=tiny_bundle, count=2, reject=0.5, attempts=1).options())
    first, second = SampleTask(0, "0", (), ()), SampleTask(1, "1", (), ())
    redraws.judge(first, "near", 0.6)
    redraws.judge(second, "far", 5.0)
    assert redraws.judge(replace(second, attempt=1), "farther", 6.0) == "far"
    assert redraws.judge(replace(first, attempt=1), "broken", None) == "near"
    assert redraws.judge(replace(first, attempt=1), "last", 7.0) == "last"  # what was kept is forgotten


def test_a_copy_is_drawn_again_whatever_the_tolerance(tiny_bundle: Bundle) -> None:
    redraws: Redraws[str] = Redraws(GenerateRequest(bundle=tiny_bundle, count=1, attempts=2).options())
    task = SampleTask(0, "0", (), ())
    for attempt in range(2):
        again = redraws.judge(task, "copy", None, is_copy=True)
        assert again == replace(task, attempt=attempt + 1)
        task = again
    assert redraws.judge(task, "copy", None, is_copy=True) == "copy"
    assert redraws.judge(replace(task, attempt=1), "other", 0.3) == "other"

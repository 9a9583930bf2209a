"""What the command line says of the commonest mistakes, held to `mistakes.txt`, in which a person reads every change.

Where a message was changed on purpose: `python -m tests.support.mistakes BUNDLE > tests/cli/mistakes.txt` with a tiny
bundle, and look at the difference.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sbldm.engine.bundle.load import Bundle

from tests.support.mistakes import MISTAKES, Mistake, answer

KEPT = dict(re.findall(r"^# (.+)\n((?:.+\n)+)", (Path(__file__).parent / "mistakes.txt").read_text(), re.MULTILINE))


def test_each_mistake_is_kept_once() -> None:
    assert len(MISTAKES) >= 30
    assert list(KEPT) == [mistake.title for mistake in MISTAKES]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title.replace(" ", "-"))
def test_a_mistake_gets_its_message(tiny_bundle: Bundle, mistake: Mistake) -> None:
    assert answer(mistake, tiny_bundle.path) + "\n" == KEPT[mistake.title]


@pytest.mark.parametrize("title", KEPT)
def test_a_mistake_leaves_nothing_and_has_an_exit_code_of_its_kind(title: str) -> None:
    assert re.search(r"\nexit code [234]\n$", KEPT[title])
    assert "Traceback" not in KEPT[title]

"""What is told of a run's samples at its end."""

from __future__ import annotations

import pytest
from sbldm.engine.run.ledger import SampleRecord
from sbldm.engine.run.outcomes import NAMED, Outcomes


def record(number: int, wanted: float, made: float | None, fault: str | None = None) -> SampleRecord:
    return SampleRecord(number, f"s{number}", 0, {"volume_ml": wanted}, (), {"volume_ml": made}, fault=fault)


def test_samples_as_asked_are_not_spoken_of() -> None:
    assert Outcomes.of([record(0, 10, 8.01), record(1, 10, 11.99), record(2, 10, 10)]).told() == []


def test_empty_masks_and_missed_volumes_are_told_by_name() -> None:
    found = Outcomes.of([record(0, 10, 0.0), record(1, 10, 7.9), record(2, 10, 12.1), record(3, 10, 10)])
    assert (found.samples, found.without_tumour, found.off_volume, found.failed) == (4, 1, 2, 0)
    empty, off = found.told()
    assert empty == "1 of 4 have no tumour: s0"
    assert off.startswith("2 of 4 miss the requested volume by more than 20%: s1, s2; ")


@pytest.mark.parametrize("made", [None, 0.0])
def test_an_unmeasured_volume_is_no_tumour(made: float | None) -> None:
    assert Outcomes.of([record(0, 10, made)]).without_tumour == 1


def test_failed_samples_are_failed_and_nothing_else() -> None:
    found = Outcomes.of([record(0, 10, None, fault="blank")])
    assert (found.failed, found.told()) == (1, [])


def test_names_are_few_however_many_there_are() -> None:
    found = Outcomes.of(record(number, 10, 0.0) for number in range(1000))
    assert found.told() == ["1000 of 1000 have no tumour: s0, s1, s2, s3, s4 and 995 more"]
    assert len(found.named["without_tumour"]) == NAMED

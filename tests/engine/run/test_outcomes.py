"""What is told of a run's samples at its end."""

from __future__ import annotations

from sbldm.engine.run.ledger import SampleRecord
from sbldm.engine.run.outcomes import NAMED, Outcomes
from sbldm.engine.run.writer import NO_TUMOUR


def record(number: int, wanted: float, made: float | None, fault: str | None = None) -> SampleRecord:
    return SampleRecord(number, f"s{number}", 0, {"volume_ml": wanted}, (), {"volume_ml": made}, fault=fault)


def empty(number: int) -> SampleRecord:
    return record(number, 10, None, fault=NO_TUMOUR)


def test_samples_as_asked_are_not_spoken_of() -> None:
    assert Outcomes.of([record(0, 10, 8.01), record(1, 10, 11.99), record(2, 10, 10)]).told() == []


def test_empty_masks_and_missed_volumes_are_told_by_name() -> None:
    records = [empty(0), record(1, 10, 7.9), record(2, 10, 12.1), record(3, 10, 10)]
    found = Outcomes.of(records)
    assert (found.samples, found.failed, found.without_tumour, found.off_volume) == (4, 1, 1, 2)
    without, off = found.told()
    assert without.startswith("1 of 4 failed because no tumour came out: s0; ")
    assert off.startswith("2 of 4 miss the requested volume by more than 20%: s1, s2; ")


def test_samples_that_failed_otherwise_are_failed_and_nothing_else() -> None:
    found = Outcomes.of([record(0, 10, None, fault="blank")])
    assert (found.failed, found.without_tumour, found.told()) == (1, 0, [])


def test_names_are_few_however_many_there_are() -> None:
    found = Outcomes.of(empty(number) for number in range(1000))
    (told,) = found.told()
    assert told.startswith("1000 of 1000 failed because no tumour came out: s0, s1, s2, s3, s4 and 995 more; ")
    assert len(found.named["without_tumour"]) == NAMED

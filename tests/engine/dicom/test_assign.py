"""The rule that tells modalities by headers: what people call series, what scanners write, what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pathlib import Path

from pydicom.dataset import Dataset
from sbldm.engine.dicom.assign import assign, modality_of
from sbldm.engine.dicom.faults import DicomFault
from sbldm.engine.dicom.series import Series


def header(description: str = "", **more: Any) -> Dataset:
    made = Dataset()
    made.Modality, made.SeriesDescription = "MR", description
    for keyword, value in more.items():
        setattr(made, keyword, value)
    return made


def series(number: int, description: str, **more: Any) -> Series:
    one = header(description, SeriesNumber=number, SeriesInstanceUID=f"1.2.{number}", **more)
    return Series((one,), (Path(f"IM{number}"),))


T1 = {"EchoTime": 9, "RepetitionTime": 500}
MPRAGE = {"EchoTime": 3, "RepetitionTime": 2000, "InversionTime": 900}
T2 = {"EchoTime": 100, "RepetitionTime": 5000}
FLAIR = {"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}


@pytest.mark.parametrize(
    ("description", "more", "modality"),
    [
        ("AX T1 SE", {}, "t1"),
        ("Ax T1 FLAIR", {}, "t1"),
        ("AX T1 POST GD", {}, "t1ce"),
        ("t1_mprage_sag_KM", MPRAGE, "t1ce"),
        ("AX T1+C", {}, "t1ce"),
        ("T1 pre contrast", {}, "t1"),
        ("T1 non-contrast", {}, "t1"),
        ("AX T1", {"ContrastBolusAgent": "Gadovist"}, "t1ce"),
        ("AX T1", {"ContrastBolusAgent": "NONE"}, "t1"),
        ("T2 TSE tra", {}, "t2"),
        ("AX T2 FLAIR FS", {}, "flair"),
        ("t2_spc_da-fl dark fluid", {}, "flair"),
        ("", T1, "t1"),
        ("", MPRAGE, "t1"),
        ("", T2, "t2"),
        ("", FLAIR, "flair"),
        ("Ax", {**T1, "ContrastBolusAgent": "Dotarem"}, "t1ce"),
        ("SYNTHETIC sbldm-engine t1ce", {}, "t1ce"),
        ("SYNTHETIC sbldm-engine t1", {}, "t1"),
        ("AX T1", T2, None),  # words against times
        ("T1 native", {"ContrastBolusAgent": "Gadovist"}, None),
        ("Ax", {}, None),
        ("", {"EchoTime": 40, "RepetitionTime": 3000}, None),
        ("AX DWI T2", {}, None),
        ("T2* GRE", {}, None),
        ("T1 perfusion DCE", {}, None),
        ("localizer T1", {}, None),
        ("T1 MIP", {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, None),
        ("CT T1", {"Modality": "CT"}, None),
    ],
)
def test_the_rule(description: str, more: dict[str, Any], modality: str | None) -> None:
    found, why = modality_of(header(description, **more))
    assert found == modality
    assert why


def test_several_that_may_be_one_modality_are_refused_and_named() -> None:
    two = [series(3, "AX T1"), series(4, "AX T1 CE"), series(9, "SAG T1 CE")]
    with pytest.raises(DicomFault, match=r"2 series may be t1ce: series 4 \(AX T1 CE\), series 9 .*--map t1ce=4"):
        assign(two, ("t1", "t1ce"), {})
    assert {m: one.number for m, one in assign(two, ("t1", "t1ce"), {"t1ce": "9"}).items()} == {"t1ce": "9", "t1": "3"}
    assert set(assign(two, ("t1", "t1ce"), {}, strict=False)) == {"t1"}


def test_what_the_user_says_goes_before_the_rule() -> None:
    four = [series(3, "AX T1"), series(4, "AX T2"), series(5, "X"), series(5, "Y")]
    assert assign(four, ("t1", "t2"), {"t1": "1.2.4", "t2": "3"})["t1"].number == "4"
    for wanted, told in (("7", "no series has"), ("5", "several series have")):
        with pytest.raises(DicomFault, match=f"--map t2={wanted}: {told}.*there: series 3"):
            assign(four, ("t1", "t2"), {"t2": wanted})

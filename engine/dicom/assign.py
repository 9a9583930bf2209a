"""Which series is which modality: by what the user says (`--map`), else by a rule on the headers.

The rule. Words of Series Description (without one: Protocol Name) say the weighting: flair (dark fluid, tirm), t1, t2;
a T1 FLAIR is T1-weighted. Times say it, too: FLAIR has an echo time of 60 ms or more and an inversion time above
1400 ms; T2 an echo time of 60 ms or more and a repetition time of 2000 ms or more; T1 an echo time of 30 ms or less and
a repetition time of 1200 ms or less, or an inversion time of 1400 ms or less. Where both speak they must agree; where
neither does, the series has no modality. A T1-weighted series is t1ce where a contrast agent is recorded or words say
so (ce, gd, post, contrast, +c, km), and words may not say the opposite (pre, native, without). Localizers, diffusion,
perfusion, susceptibility, subtractions and projections are left out. Nothing is chosen among several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydicom.dataset import Dataset

from .faults import DAMAGED, DicomFault
from .headers import number, text
from .series import Series

_OTHER = re.compile(
    r"dwi|diff|adc|dti|trace|b1000|perf|dsc|dce|asl|cbv|cbf|swi|swan|venbold|t2\*|t2star|hemo|fmri|bold|locali[sz]er|"
    r"scout|survey|mip\b|subtract|\bsub\b|phase|spectro|angio|\btof\b|fieldmap|b0map"
)
_OTHER_KINDS = frozenset({"PROJECTION IMAGE", "LOCALIZER", "SUBTRACT", "DIFFUSION", "ADC", "MIN IP", "MAX IP", "MIP"})
_FLAIR = re.compile(r"flair|dark.?fluid|tirm")
_T1, _T2 = re.compile(r"t1"), re.compile(r"t2")
_WITH = re.compile(r"t1ce|t1c\b|t1gd|\bce\b|\bgd|gado|post|\+ ?c\b|\bc\+|contrast|\bkm\b|enhanced")
_WITHOUT = re.compile(
    r"\bpre.?contrast|\bpre\b|native|without|w/o|non.?contrast|no contrast|\bohne\b|unenhanced|non.?enhanced"
)
_NO_AGENT = frozenset({"", "NO", "NONE", "N/A", "NA", "0"})


def modality_of(header: Dataset) -> tuple[str | None, str]:
    """The modality that the rule gives a series, and why, or why it has none."""
    try:
        return _modality_of(header)
    except DAMAGED as error:
        return None, f"its header cannot be read ({error})"


def _modality_of(header: Dataset) -> tuple[str | None, str]:
    words = (text(header, "SeriesDescription") or text(header, "ProtocolName")).lower().replace("_", " ")
    kinds = {str(kind).upper() for kind in (header.get("ImageType") or [])}
    if text(header, "Modality") != "MR":
        return None, f"is of modality {text(header, 'Modality') or 'unknown'}"
    if _OTHER.search(words) or kinds & _OTHER_KINDS:
        return None, "is no anatomical image by its words"
    told, timed = _by_words(words), _by_times(header)
    if told and timed and told != timed:
        return None, f"is {told} by its words and {timed} by its times"
    weighting = told or timed
    if weighting is None:
        return None, "neither words nor times tell its weighting"
    why = "words" if told else "times"
    if weighting != "t1":
        return weighting, f"by its {why}"
    return _contrast(header, words, why)


def _by_words(words: str) -> str | None:
    if _T1.search(words):
        return "t1"
    if _FLAIR.search(words):
        return "flair"
    return "t2" if _T2.search(words) else None


def _by_times(header: Dataset) -> str | None:
    echo, repetition = number(header, "EchoTime"), number(header, "RepetitionTime")
    inversion = number(header, "InversionTime") or 0.0
    if echo is None or repetition is None:
        return None
    if echo >= 60:
        return "flair" if inversion > 1400 else "t2" if not inversion and repetition >= 2000 else None
    is_short = repetition <= 1200 or 0 < inversion <= 1400
    return "t1" if echo <= 30 and is_short else None


def _contrast(header: Dataset, words: str, why: str) -> tuple[str | None, str]:
    agent = text(header, "ContrastBolusAgent").upper() not in _NO_AGENT or bool(
        header.get("ContrastBolusAgentSequence")
    )
    without = _WITHOUT.search(words) is not None
    given = agent or _WITH.search(_WITHOUT.sub(" ", words)) is not None
    if given and without:
        return None, "is T1-weighted, with and without a contrast agent by its header"
    return ("t1ce" if given else "t1"), f"by its {why}, {'with' if given else 'without'} a contrast agent"


def assign(
    series: Sequence[Series], modalities: Sequence[str], given: Mapping[str, str], *, strict: bool = True
) -> dict[str, Series]:
    """The series of each modality that has one.

    Args:
        series: of one study.
        modalities: that are wanted.
        given: modality -> Series Number or Series Instance UID, as the user says.
        strict: whether several that may be one modality are a fault; else it has none.

    Raises:
        DicomFault: a given series is not there, or several may be one modality.
    """
    faults: list[str] = []
    chosen: dict[str, Series] = {}
    for modality, wanted in given.items():
        found = [one for one in series if wanted in (one.number, one.uid)]
        if len(found) == 1:
            chosen[modality] = found[0]
            continue
        how = "several series have" if found else "no series has"
        faults.append(f"--map {modality}={wanted}: {how} this number or UID; there: {_names(series)}")
    rest = [(one, modality_of(one.head)[0]) for one in series if one not in chosen.values()]
    for modality in modalities:
        found = [one for one, kind in rest if kind == modality]
        if modality in chosen or not found:
            continue
        if len(found) == 1:
            chosen[modality] = found[0]
        elif strict:
            choice = f"--map {modality}={found[0].number or found[0].uid}"
            faults.append(f"{len(found)} series may be {modality}: {_names(found)}; say which, such as {choice}")
    if faults:
        raise DicomFault(faults)
    return chosen


def unassigned(series: Sequence[Series], chosen: Mapping[str, Series]) -> str:
    """The series that have no modality, and why."""
    others = [(one.name, *modality_of(one.head)) for one in series if one not in chosen.values()]
    return "; ".join(f"{name} {why if kind is None else f'may be {kind}'}" for name, kind, why in others)


def _names(series: Sequence[Series]) -> str:
    return ", ".join(one.name for one in series)

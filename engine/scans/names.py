"""Which file names are read: the conventions of public data sets and of our own runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .labels import BACKGROUND, CAVITY, ENHANCING, NECROSIS, OEDEMA, LabelMap, plain

SEGMENTATION = "seg"
_ENDING = r"\.nii(?:\.gz)?"
_UNDERSCORE_LABELS = {0: BACKGROUND, 1: NECROSIS, 2: OEDEMA, 4: ENHANCING}
_HYPHEN_LABELS = {0: BACKGROUND, 1: NECROSIS, 2: OEDEMA, 3: ENHANCING, 4: CAVITY}
PED_ADVICE = (
    "masks of BraTS-PED number the tissues differently from year to year; say what these labels mean, for 2024 "
    '--labels "enhancing=1,necrosis=2,cyst=3,oedema=4", for 2023 --labels "necrosis=1,oedema=2,enhancing=3"'
)


@dataclass(frozen=True)
class Convention:
    """Names of one kind of data set: `CASE` + separator + part + `.nii` or `.nii.gz`."""

    title: str
    case: str  # regular expression of the case's name
    separator: str
    parts: Mapping[str, str]  # spelling -> modality or "seg"
    labels: Mapping[int, int] | None  # None: by the data set's own names
    ignores_case: bool = True

    def match(self, file_name: str) -> tuple[str, str, str] | None:
        """Case, part and its spelling of a file's name; None if it is none of these."""
        spellings = "|".join(sorted(map(re.escape, self.parts), key=len, reverse=True))
        pattern = rf"(?P<case>{self.case}){re.escape(self.separator)}(?P<part>{spellings}){_ENDING}"
        found = re.fullmatch(pattern, file_name, re.IGNORECASE if self.ignores_case else 0)
        if found is None:
            return None
        spelled = next(s for s in self.parts if s == found["part"] or s.lower() == found["part"].lower())
        return found["case"], self.parts[spelled], spelled

    def example(self, spelling: str, case: str = "CASE") -> str:
        """A file's name."""
        return f"{case}{self.separator}{spelling}.nii.gz"

    def shown(self) -> str:
        """The names as documentation and messages show them."""
        return ", ".join(f"CASE{self.separator}{spelling}" for spelling in self.parts)


UPENN = Convention(
    "UPENN-GBM", r"UPENN-GBM-\d+_\d+", "_",
    {"T1": "t1", "T1GD": "t1ce", "T2": "t2", "FLAIR": "flair", "segm": SEGMENTATION,
     "automated_approx_segm": SEGMENTATION}, _UNDERSCORE_LABELS,
)  # fmt: skip
UCSF = Convention(
    "UCSF-PDGM", r"UCSF-PDGM-\d+(?:_FU\d+d)?", "_",
    {"T1": "t1", "T1c": "t1ce", "T2": "t2", "FLAIR": "flair", "tumor_segmentation": SEGMENTATION}, _UNDERSCORE_LABELS,
)  # fmt: skip
BRATS_HYPHEN = Convention(
    "BraTS 2023 and later", ".+", "-",
    {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": SEGMENTATION}, _HYPHEN_LABELS,
)  # fmt: skip
BRATS_UNDERSCORE = Convention(
    "BraTS 2012-2021", ".+", "_",
    {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair", "seg": SEGMENTATION}, _UNDERSCORE_LABELS,
)  # fmt: skip
BIDS = Convention(
    "BIDS", r"sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?", "_",
    {"T1w": "t1", "ce-gadolinium_T1w": "t1ce", "T2w": "t2", "FLAIR": "flair", "desc-tumour_dseg": SEGMENTATION}, None,
    ignores_case=False,
)  # fmt: skip
CONVENTIONS = (UPENN, UCSF, BIDS, BRATS_HYPHEN, BRATS_UNDERSCORE)  # in the order of trying

CHALLENGES: Mapping[str, Mapping[int, int] | None] = {  # of `BraTS-XXX-...`; None: differs from year to year
    "GLI": _HYPHEN_LABELS,
    "SSA": _HYPHEN_LABELS,
    "MEN": _HYPHEN_LABELS,
    "MET": _HYPHEN_LABELS,
    "GOAT": _HYPHEN_LABELS,
    "PED": None,
}

CHANNEL_NAMES = {  # letters and digits only
    "t1": ("t1", "t1n", "t1w", "t1native", "t1pre", "t1precontrast"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1wgd", "t1post", "t1cet1", "cet1", "t1contrast", "t1postcontrast",
             "t1contrastenhanced", "t1wpost", "t1km", "cet1w", "t1cegd"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f", "t2flair", "fl", "t2wflair", "flairt2"),
}  # fmt: skip

_BIDS_NAME = re.compile(
    r"(?P<case>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?P<entities>(?:_[a-z]+-[A-Za-z0-9+]+)*)_"
    r"(?P<suffix>T1w|T2w|FLAIR|dseg|mask)" + _ENDING
)
_PREDICTION = re.compile(r".+[_-](?:pred|prediction|predicted)(?:[_-]seg(?:mentation)?)?" + _ENDING, re.IGNORECASE)
_TUMOUR_WORDS = ("tumor", "lesion", "glioma", "seg")


@dataclass(frozen=True)
class Named:
    """What a file's name says."""

    case: str
    part: str  # a modality or "seg"
    spelling: str
    convention: Convention
    is_whole_mask: bool = False  # a BIDS `_mask`: one tumour label


def is_nifti(file_name: str) -> bool:
    """Whether the name ends as those of NIfTI files do."""
    return file_name.endswith((".nii", ".nii.gz"))


def is_prediction(file_name: str) -> bool:
    """Whether the name is that of a predicted mask, `CASE_pred_seg.nii.gz`."""
    return _PREDICTION.fullmatch(file_name) is not None


def stem(file_name: str) -> str:
    """The name without `.nii` or `.nii.gz`."""
    return file_name.removesuffix(".gz").removesuffix(".nii")


def named(file_name: str) -> Named | None:
    """What a file's name says; None if it follows no convention."""
    for convention in CONVENTIONS:
        if convention is BIDS:
            if (found := _bids(file_name)) is not None:
                return found
        elif (match := convention.match(file_name)) is not None:
            return Named(match[0], match[1], match[2], convention)
    return None


def _bids(file_name: str) -> Named | None:
    found = _BIDS_NAME.fullmatch(file_name)
    if found is None:
        return None
    entities = dict(entity.split("-", 1) for entity in found["entities"].split("_") if entity)
    suffix = found["suffix"]
    spelling = f"{found['entities'].removeprefix('_')}_{suffix}".removeprefix("_")
    if suffix == "mask":
        told = plain(entities.get("label", "") + entities.get("desc", ""))
        if not any(word in told for word in _TUMOUR_WORDS):
            return None  # of the brain, or of what nobody says
    parts = {"T1w": "t1ce" if "ce" in entities else "t1", "T2w": "t2", "FLAIR": "flair"}
    return Named(found["case"], parts.get(suffix, SEGMENTATION), spelling, BIDS, suffix == "mask")


def meaning_of(named_mask: Named) -> LabelMap | None:
    """What the numbers of this mask mean by its name alone; None where names do not tell."""
    convention = named_mask.convention
    if named_mask.is_whole_mask:
        return LabelMap({0: BACKGROUND, 1: NECROSIS}, "a BIDS _mask", is_binary=True)
    labels, title = convention.labels, convention.title
    challenge = re.match(r"BraTS-([A-Z]+)-", named_mask.case, re.IGNORECASE)
    if challenge is not None and challenge[1].upper() in CHALLENGES:
        of_challenge = CHALLENGES[challenge[1].upper()]
        labels = labels if of_challenge is not None else None
    return None if labels is None else LabelMap(labels, f"names of {title}", is_told=False)


def unknown_meaning(named_mask: Named) -> str:
    """Why `meaning_of` is None, and what to do."""
    if named_mask.convention is BIDS:
        return (
            "labels: no table beside it says what they mean (a TSV with index and name, "
            'such as desc-tumour_dseg.tsv); say it with --labels "necrosis=1,oedema=2,enhancing=3"'
        )
    return PED_ADVICE


def modality_of(channel: str) -> str | None:
    """The modality that a channel's name means."""
    reduced = re.sub(r"[^a-z0-9]", "", channel.lower())
    reduced = reduced.removeprefix("mri").removeprefix("mr") or reduced
    return next((modality for modality, names in CHANNEL_NAMES.items() if reduced in names), None)


def nearest(file_name: str) -> str:
    """The accepted name that is most like this one's ending, as `CASE_t1ce.nii.gz`."""
    tails = {
        f"{convention.separator}{spelling}".lower(): convention.example(spelling)
        for convention in (BRATS_UNDERSCORE, BRATS_HYPHEN)
        for spelling in convention.parts
    }
    words = re.split(r"(?=[_-])", stem(file_name).lower())
    tail = words[-1] if words[-1][:1] in "_-" else f"_{words[-1]}"
    close = difflib.get_close_matches(tail, list(tails), n=1, cutoff=0.5)
    if close:
        return tails[close[0]]
    return tails["_seg"] if "seg" in tail or "mask" in tail or "label" in tail else tails["_t1ce"]

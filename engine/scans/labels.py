"""What the numbers of a mask mean: the one interpreter of label names, for every reader and writer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InvalidInputError

BACKGROUND, NECROSIS, OEDEMA, ENHANCING, CAVITY, IGNORE = range(6)
TISSUES = (NECROSIS, OEDEMA, ENHANCING)
TISSUE_NAMES = ("background", "necrosis", "oedema", "enhancing", "cavity", "ignore")
MAX_VALUE = 65535  # the largest number that a mask may hold
LABELS_EXAMPLE = '--labels "necrosis=1,oedema=2,enhancing=3"'

# Spellings, lower case, letters and digits only, "tumour" and "oedema" written "tumor" and "edema".
SYNONYMS: Mapping[int, tuple[str, ...]] = {
    BACKGROUND: ("background", "bg", "unlabeled", "unlabelled", "none"),
    NECROSIS: ("ncr", "net", "ncrnet", "netc", "cc", "cyst", "cystic", "cysticcomponent", "cystictumorcomponent",
               "necrosis", "necroticcore", "nonenhancing", "nonenhancingtumor", "nonenhancingtumorcore"),
    OEDEMA: ("ed", "edema", "peritumoraledema", "snfh", "surroundingnonenhancingflairhyperintensity",
             "flairhyperintensity"),
    ENHANCING: ("et", "enhancing", "enhancingtumor", "enhancingtissue", "gdenhancingtumor", "activetumor"),
    CAVITY: ("rc", "cavity", "resectioncavity", "resection", "surgicalcavity"),
    IGNORE: ("ignore",),
}  # fmt: skip
WHOLE_TUMOUR = ("wt", "whole", "wholetumor", "tumor", "completetumor", "lesion", "glioma", "gtv")
TUMOUR_CORE = ("tc", "core", "tumorcore")
_NAMED = {spelling: kind for kind, spellings in SYNONYMS.items() for spelling in spellings}


@dataclass(frozen=True)
class LabelMap:
    """Value in a file -> BACKGROUND, NECROSIS, OEDEMA, ENHANCING, CAVITY or IGNORE."""

    values: Mapping[int, int]
    source: str  # who says so, for messages
    is_binary: bool = False  # one tumour label, kept as NECROSIS; its tissues are unknown
    is_told: bool = True  # by names in the data set or by the user, not by the pattern of a file's name

    def allowed(self) -> str:
        """The values as messages show them: `0, 1, 2, 4`."""
        return ", ".join(str(value) for value in sorted(self.values))

    def described(self) -> str:
        """The meaning as messages and tables show it: `1 necrosis, 2 oedema, 4 enhancing`."""
        names = ("", "tumour") if self.is_binary else TISSUE_NAMES
        shown = ((value, names[kind] if kind < len(names) else TISSUE_NAMES[kind]) for value, kind in
                 sorted(self.values.items()) if kind != BACKGROUND)  # fmt: skip
        return ", ".join(f"{value} {name}" for value, name in shown)

    def value_of(self, kind: int) -> int | None:
        """The file's value of a tissue; None where it has none, or several."""
        values = [value for value, mapped in self.values.items() if mapped == kind]
        return values[0] if len(values) == 1 else None


def plain(name: str) -> str:
    """A name reduced to what its spelling tells: lower case, letters and digits, American."""
    reduced = re.sub(r"[^a-z0-9]", "", name.lower())
    return reduced.replace("tumour", "tumor").replace("oedema", "edema")


def tissue_of(name: str) -> int | None:
    """The tissue that a label's name means, None if it means none or more than one."""
    reduced = plain(name)
    if reduced in _NAMED:
        return _NAMED[reduced]
    enhancing = "enhanc" in reduced.replace("nonenhanc", "").replace("unenhanc", "")
    told = {
        NECROSIS: any(part in reduced for part in ("necro", "nonenhanc", "unenhanc", "cystic")),
        OEDEMA: "edema" in reduced,
        ENHANCING: enhancing,
        CAVITY: "cavity" in reduced,
    }
    kinds = [kind for kind, found in told.items() if found]
    return kinds[0] if len(kinds) == 1 else None


def region_of(name: str) -> frozenset[int] | None:
    """The tissues that a region's name covers, None if the name is not known."""
    reduced = plain(name)
    if reduced in WHOLE_TUMOUR:
        return frozenset(TISSUES)
    if reduced in TUMOUR_CORE:
        return frozenset({NECROSIS, ENHANCING})
    tissue = tissue_of(name)
    return None if tissue in (None, BACKGROUND, IGNORE) else frozenset({tissue})


def labels_by_name(labels: Mapping[str, frozenset[int]], where: str) -> LabelMap:
    """The meaning of named labels (one value each) or regions (several, overlapping).

    A value of regions is the one tissue that lies in just those regions which list it: with whole tumour {1, 2, 3},
    core {2, 3} and enhancing {3}, value 1 is oedema, 2 necrosis, 3 enhancing. One foreground value is one tumour label.

    Raises:
        InvalidInputError: a value's tissue does not follow from the names; `where` names the place.
    """
    values: dict[int, int] = {BACKGROUND: BACKGROUND}
    foreground: dict[str, frozenset[int]] = {}
    for name, numbers in labels.items():
        tissue = tissue_of(name)
        if tissue == BACKGROUND or numbers == {0}:
            if numbers != {0} or tissue not in (None, BACKGROUND):
                raise InvalidInputError(f"{where}: {name!r} is {_shown(numbers)}; background, and nothing else, is 0")
        elif tissue in (IGNORE, CAVITY) and len(numbers) == 1:
            values |= dict.fromkeys(numbers, tissue)
        else:
            foreground[name] = numbers - {0}
    every = frozenset().union(*foreground.values())
    if not every or every & values.keys():
        raise _cannot_tell(labels, where)
    if len(every) == 1:
        return LabelMap(values | dict.fromkeys(every, NECROSIS), where, is_binary=True)
    is_plain = sum(map(len, foreground.values())) == len(every) == len(foreground)
    for value in every:
        kind = _plain_kind(value, foreground) if is_plain else _region_kind(value, foreground)
        if kind is None:
            raise _cannot_tell(labels, where)
        values[value] = kind
    return LabelMap(values, where)


def _plain_kind(value: int, labels: Mapping[str, frozenset[int]]) -> int | None:
    """Labels that exclude each other; the core beside a label of enhancing tumour is its rest."""
    name = next(name for name, numbers in labels.items() if value in numbers)
    if plain(name) in TUMOUR_CORE and ENHANCING in map(tissue_of, labels):
        return NECROSIS
    return tissue_of(name)


def _region_kind(value: int, regions: Mapping[str, frozenset[int]]) -> int | None:
    covered = [(value in numbers, region_of(name)) for name, numbers in regions.items()]
    if any(tissues is None for _, tissues in covered):
        return None
    fitting = [kind for kind in (*TISSUES, CAVITY) if all((kind in (t or ())) == listed for listed, t in covered)]
    return fitting[0] if len(fitting) == 1 else None


def _cannot_tell(labels: Mapping[str, frozenset[int]], where: str) -> InvalidInputError:
    given = json.dumps({name: sorted(numbers) for name, numbers in labels.items()})
    return InvalidInputError(
        f"{where}: cannot tell which label is which tissue from {given[:300]}; name them necrosis, edema and "
        "enhancing, give the regions whole tumor, tumor core and enhancing tumor, or say what the numbers mean: "
        + LABELS_EXAMPLE
    )


def _shown(numbers: frozenset[int]) -> str:
    ordered = sorted(numbers)
    return str(ordered[0]) if len(ordered) == 1 else str(ordered)


def parse_labels(text: str) -> LabelMap:
    """`necrosis=1,oedema=2,enhancing=3,cavity=4` as the user gives it; a tissue may have several numbers.

    Raises:
        InvalidInputError: an entry that is no `tissue=number`, an unknown tissue, a number twice.
    """
    values: dict[int, int] = {BACKGROUND: BACKGROUND}
    is_whole = False
    for entry in text.split(","):
        name, _, number = (part.strip() for part in entry.partition("="))
        if not re.fullmatch(r"\d{1,5}", number, re.ASCII) or int(number) > MAX_VALUE:
            raise InvalidInputError(f"--labels {text!r}: {entry.strip()!r} is no tissue=number; e.g. {LABELS_EXAMPLE}")
        whole = plain(name) in WHOLE_TUMOUR
        tissue = NECROSIS if whole else tissue_of(name)
        if tissue is None:
            raise InvalidInputError(f"--labels {text!r}: {name!r} is no tissue; allowed: {', '.join(TISSUE_NAMES)}")
        value = int(number)
        if (value == 0) != (tissue == BACKGROUND) or (value in values and value != 0):
            raise InvalidInputError(
                f"--labels {text!r}: {value} twice, or a tissue 0; background, and nothing else, is 0"
            )
        values[value] = tissue
        is_whole |= whole
    tumour = [kind for kind in values.values() if kind in TISSUES]
    if not tumour or (is_whole and len(tumour) > 1):
        raise InvalidInputError(f"--labels {text!r}: name the tissues, or the one tumour label; e.g. {LABELS_EXAMPLE}")
    return LabelMap(values, "--labels", is_binary=is_whole)


def known_spellings() -> Sequence[tuple[str, str]]:
    """Tissue and its spellings, for the documentation."""
    rows = [(TISSUE_NAMES[kind], ", ".join(SYNONYMS[kind])) for kind in (*TISSUES, CAVITY, IGNORE)]
    return [*rows, ("whole tumour", ", ".join(WHOLE_TUMOUR)), ("tumour core", ", ".join(TUMOUR_CORE))]

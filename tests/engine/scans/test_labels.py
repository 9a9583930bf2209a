from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.scans.dataset_json import parse_label_values
from sbldm.engine.scans.labels import (
    CAVITY,
    ENHANCING,
    IGNORE,
    NECROSIS,
    OEDEMA,
    SYNONYMS,
    labels_by_name,
    parse_labels,
    tissue_of,
)
from sbldm.engine.scans.options import read_options
from sbldm.engine.scans.target_labels import renumbering

OURS = {"background": 0, "ncr": 1, "ed": 2, "et": 3}


def meaning(labels: object) -> dict[int, int]:
    return dict(labels_by_name(parse_label_values("dataset.json", labels), "dataset.json").values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("NETC", NECROSIS), ("non-enhancing tumour core", NECROSIS), ("Necrotic core", NECROSIS), ("CC", NECROSIS),
        ("SNFH", OEDEMA), ("Surrounding non-enhancing FLAIR hyperintensity", OEDEMA), ("peritumoral oedema", OEDEMA),
        ("ET", ENHANCING), ("Gd-enhancing tumor", ENHANCING), ("resection_cavity", CAVITY), ("RC", CAVITY),
        ("ignore", IGNORE), ("necrosis and edema", None), ("ventricle", None), ("tumor core", None),
    ],
)  # fmt: skip
def test_names_of_tissues(name: str, tissue: int | None) -> None:
    assert tissue_of(name) == tissue


def test_no_spelling_means_two_tissues() -> None:
    spellings = list(itertools.chain.from_iterable(SYNONYMS.values()))
    assert len(spellings) == len(set(spellings))
    assert all(tissue_of(spelling) == kind for kind, group in SYNONYMS.items() for spelling in group)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, {0: 0, 1: 1, 2: 2, 3: 3, 4: CAVITY}),
        (
            {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3, "ignore": 4},
            {0: 0, 1: 1, 2: 2, 3: 3, 4: IGNORE},
        ),
        ({"background": 0, "whole tumor": ["1", "2", "3"], "tumor core": [1, 3], "ET": 3}, {0: 0, 1: 1, 2: 2, 3: 3}),
        (
            {"background": 0, "ET": [3], "NETC": [1], "SNFH": [2], "RC": [4], "TC": [1, 3], "WT": [1, 2, 3]},
            {0: 0, 1: 1, 2: 2, 3: 3, 4: CAVITY},
        ),
        ({"0": "background", "1": "necrosis", "2": "edema", "3.0": "enhancing"}, {0: 0, 1: 1, 2: 2, 3: 3}),
        ({"background": 0, "necrosis": [1, 3], "edema": 2, "enhancing": 4}, {0: 0, 1: 1, 2: 2, 3: 1, 4: 3}),
        ({"background": 0, "edema": 1, "core": 2, "enhancing": 3}, {0: 0, 1: 2, 2: 1, 3: 3}),
    ],
)
def test_labels_regions_cavity_and_ignore(labels: object, expected: dict[int, int]) -> None:
    assert meaning(labels) == expected


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 2},
        {"background": 0, "edema": 1, "core": 2},
        {"background": 0, "core": [1, 3], "edema": 2},
        {"background": 0, "whole tumor": 1, "tumor core": 2, "enhancing tumor": 3},
        {"background": 0, "whole tumor": [1, 2, 3, 4], "tumor core": [1, 3], "enhancing": 3, "RC": 4},
        {"background": 1, "edema": 2},
        {"necrosis": 0, "edema": 1, "enhancing": 2},
    ],
)
def test_what_names_do_not_tell_is_refused_and_the_way_out_named(labels: object) -> None:
    with pytest.raises(InvalidInputError, match=r"--labels|nothing else, is 0"):
        meaning(labels)


@pytest.mark.parametrize(
    "labels", [None, [], {}, 3, {"edema": None}, {"edema": True}, {"edema": 1.5}, {"edema": []}, {"edema": [[1]]},
               {"edema": -1}, {"edema": 10**9}, {"edema": "x"}, {"edema": {"a": 1}}]
)  # fmt: skip
def test_types_are_checked_with_file_and_key(labels: object) -> None:
    with pytest.raises(InvalidInputError, match=r"^dataset.json: labels"):
        meaning(labels)


def test_one_label_is_a_tumour_of_unknown_tissues() -> None:
    for labels in ({"background": 0, "tumor": 1}, {"background": 0, "necrosis": 7}):
        assert labels_by_name(parse_label_values("d", labels), "d").is_binary  # type: ignore[arg-type]
    assert parse_labels("tumour=1").is_binary
    assert not parse_labels("necrosis=1").is_binary


@pytest.mark.parametrize(
    "text", ["", "necrosis", "necrosis=x", "necrosis=1,oedema=1", "bone=1", "necrosis=0", "cavity=4",
             "tumour=1,oedema=2", "necrosis=99999", "background=1,oedema=2"]
)  # fmt: skip
def test_labels_option_that_cannot_be_understood_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--labels"):
        read_options(text)


@given(st.permutations([1, 2, 3]), st.booleans())
def test_masks_are_renumbered_by_name_for_every_permutation(numbers: list[int], as_regions: bool) -> None:
    ncr, ed, et = numbers
    labels: dict[str, object] = {"background": 0, "edema": ed, "necrosis": ncr, "enhancing tumor": et}
    if as_regions:
        labels = {"background": 0, "whole tumor": [ncr, ed, et], "tumor core": [ncr, et], "enhancing tumor": [et]}
    assert renumbering({"labels": labels}, OURS, "dataset.json") == {1: ncr, 2: ed, 3: et}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ({"background": 0, "a": 1, "b": 2, "c": 3}, "which label is which tissue"),
        ({"background": 0, "edema": 1}, "'edema' is the one label, and no name of a whole tumour"),
        ({"background": 0, "liver": [1]}, "'liver' is the one label, and no name of a whole tumour"),
        ({"background": 0, "edema": 1, "enhancing": 2}, "one number for necrosis"),
        ({"background": 0, "necrosis": [1, 4], "edema": 2, "enhancing": 3}, "one number for necrosis"),
        ({"background": 0, "necrosis": 1000, "edema": 2, "enhancing": 3}, "synthetic masks hold 0 to 255"),
    ],
)
def test_targets_whose_labels_do_not_fit_are_refused(labels: object, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        renumbering({"labels": labels}, OURS, "dataset.json")  # type: ignore[arg-type]


def test_one_tumour_label_takes_all_tissues_but_gives_none() -> None:
    assert renumbering({"labels": {"background": 0, "tumor": 5}}, OURS, "d") == {1: 5, 2: 5, 3: 5}  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one tumour label"):
        renumbering({"labels": OURS}, {"background": 0, "tumour": 1}, "d")  # type: ignore[arg-type]

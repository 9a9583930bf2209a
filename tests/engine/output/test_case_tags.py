"""Tags of cases: every sample has one of its own, which leads back to it, and which a file system takes as it is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sbldm.engine.output.case_tags import IdTags, NumberTags, id_faults, is_tag
from sbldm.engine.output.layouts import make_layout

IDS = st.lists(
    st.one_of(st.just(""), st.from_regex(r"[a-c0-2][a-b0-2_-]{0,4}", fullmatch=True)), min_size=1, max_size=6
)


@given(ids=IDS.filter(lambda ids: len({i for i in ids if i}) == len([i for i in ids if i])), count=st.integers(1, 40))
@example(ids=["a", "a-2", "a-2_", "", "3"], count=20)
@example(ids=["0_", "", "1"], count=20)
def test_a_tag_leads_back_to_its_sample(ids: list[str], count: int) -> None:
    tags = IdTags(tuple(ids))
    made = [tags.tag(sample) for sample in range(count)]
    assert len(set(made)) == count
    assert [tags.sample(tag) for tag in made] == list(range(count))
    assert tags.sample("nobody") is None


def test_numbers_are_tags_of_one_form() -> None:
    tags = NumberTags()
    assert [tags.sample(text) for text in ("000007", "7", "0000007", "1234567", "-00007", "")] == [
        7, None, None, 1234567, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["../x", "a/b", "", ".a", "-a", "a b", "ä", "a\n", "a" * 65, "a.b", "\N{DIGIT ONE}\u0661"]
)
def test_what_no_file_name_takes_is_no_tag(text: str) -> None:
    assert not is_tag(text)
    assert text == "" or next(iter(id_faults([text])))[0] == 0


def test_ids_that_differ_by_capitals_alone_are_faults() -> None:
    assert [row for row, _ in id_faults(["a", "A", "b"])] == [1]
    assert [row for row, _ in id_faults(["a", "A-2", "a-3"])] == [1]
    assert list(id_faults(["a", "", "a-2", ""])) == []


@pytest.mark.parametrize("layout", ["brats", "nnunet", "bids"])
def test_paths_of_ids(layout: str) -> None:
    made = make_layout(layout, ("t1", "t2"), ("background", "tumour"), tags=IdTags(("left", "", "a0001")))
    for sample in range(3):
        paths = made.paths(sample)
        assert {made.sample_of(path) for path in paths.values()} == {sample}
        assert all(("left", "1", "a0001")[sample] in path for path in paths.values())
    assert made.sample_of("sbldm-left/other.nii.gz") is None
    assert made.sample_of("imagesTr/sbldm-left_0007.nii.gz") is None

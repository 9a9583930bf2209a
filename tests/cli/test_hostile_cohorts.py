"""Hostile and wrong data sets, headers and outputs of the commands that read scans: told, and nothing outside."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.scans.dataset_json import MAX_NAME
from sbldm.engine.scans.masks import read_masks
from sbldm.engine.scans.options import ReadOptions
from sbldm.train.data.cohort import prepare_cohort

from tests.support.crash import snapshot
from tests.support.scans import MODALITIES, arrays, save, write_case

TOLD = {0, 2, 3, 4, 5}  # every exit code but 1 and those of signals
MOST_BYTES = 256 * 2**20  # that a case of less than 1 MB may take, what is imported for it included
IMAGES = [f"imagesTr/a_{k:04d}.nii.gz" for k in range(4)]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nnU-Net data set of one case, which its `dataset.json` lists."""
    folder = tmp_path_factory.mktemp("listed")
    case = arrays(numbers=(1, 2, 3))
    for image, modality in zip(IMAGES, MODALITIES, strict=True):
        save(folder / image, case[modality])
    save(folder / "labelsTr/a.nii.gz", case["seg"])
    return folder


def describe(folder: Path, name: str, images: Sequence[str] = IMAGES) -> None:
    """Write the `dataset.json`."""
    content: dict[str, Any] = {
        "channel_names": dict(zip("0123", ("T1", "T1ce", "T2", "FLAIR"), strict=True)),
        "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3},
        "file_ending": ".nii.gz",
        "dataset": {name: {"images": list(images), "label": "labelsTr/a.nii.gz"}},
    }
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["../../victim", "/victim", "..", "", ".hidden", "a\\b", "a\0b", "\ud800", "a\x1b]0;x\x07", "x" * 201]
)
def test_names_of_cases_cannot_lead_out_of_a_folder(listed: Path, tmp_path: Path, capsys, name: str) -> None:
    describe(listed, name)
    before = snapshot(listed)
    cache = tmp_path / "a" / "b" / "cache"
    evaluate = ["evaluate", "--real", str(listed), "--synthetic", str(listed), "--out", str(tmp_path / "out")]
    train = ["train", "--data", str(listed), "--out", str(tmp_path / "t"), "--cache", str(cache), "--workers", "1"]
    for command in (["data", "check", str(listed)], ["conditions", "measure", str(listed)], train, evaluate):
        assert main(command) == 3
        told = capsys.readouterr().err
        assert f"1 to {MAX_NAME} printable characters" in told
        assert "\x1b" not in told
    assert snapshot(listed) == before
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "image", ["/nonexistent/t1.nii.gz", "../t1.nii.gz", "a\0b.nii.gz", "\ud800.nii.gz", "x" * 5000]
)
def test_names_of_files_that_cannot_be_are_told(listed: Path, image: str) -> None:
    describe(listed, "a", [image, *IMAGES[1:]])
    assert main(["data", "check", str(listed)]) == 3
    assert main(["conditions", "measure", str(listed)]) == 3


@pytest.mark.parametrize("image", ["/dev/zero", "pipe", "imagesTr", ""])
def test_images_are_regular_files(listed: Path, image: str) -> None:
    if not (listed / "pipe").exists():
        os.mkfifo(listed / "pipe")
    describe(listed, "a", [image, *IMAGES[1:]])
    assert main(["data", "check", str(listed)]) == 3


@pytest.fixture(scope="module")
def plain_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case of 24 x 24 x 16 voxels, not compressed, so that headers can be changed in place."""
    shape, spacing = (24, 24, 16), (8.0, 8.0, 9.6)
    folder = tmp_path_factory.mktemp("plain")
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    for part, array in arrays(shape, spacing).items():
        save(folder / "case" / f"case_{part}.nii", array, matrix)
    return folder / "case"


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.sampled_from(("t1", "flair", "seg")),
    wounds=st.lists(
        st.tuples(
            st.integers(0, 351),
            st.sampled_from((b"\0", b"\1", b"\x7f", b"\xff", b"\xff\x7f", b"\0\x80", b"\0\0\x80\x7f", b"\0\0\xc0\x7f")),
        ),
        min_size=1,
        max_size=3,
    ),
    keep=st.one_of(st.none(), st.integers(0, 3000)),
)
def test_wounded_headers_are_told_by_every_reader(
    tiny_bundle: Bundle,
    plain_case: Path,
    tmp_path_factory: pytest.TempPathFactory,
    part: str,
    wounds: list[tuple[int, bytes]],
    keep: int | None,
) -> None:
    """`data check`, `conditions measure`, `augment`, `--masks`, what `train` and `evaluate` prepare: told, and small.

    The bytes are those of integers and floats at their limits, zero, infinite and not a number.
    """
    place = tmp_path_factory.mktemp("wounded")
    case = Path(shutil.copytree(plain_case, place / "case"))
    data = bytearray((case / f"case_{part}.nii").read_bytes())
    for at, wound in wounds:
        data[at : at + len(wound)] = wound
    (case / f"case_{part}.nii").write_bytes(data[:keep])
    before = snapshot(case)
    made = ["augment", str(case), "--bundle", str(tiny_bundle.path), "--out", str(place / "out"), "--count", "1"]
    tracemalloc.start()
    for command in (
        ["data", "check", str(case)],
        ["conditions", "measure", str(case), "--bundle", str(tiny_bundle.path)],
        [*made, "--steps", "1", "--threads", "1", "--quiet", "--backend", "onnxruntime"],
    ):
        assert main(command) in TOLD
    with suppress(InvalidInputError):
        read_masks(
            case, [c.name for c in tiny_bundle.manifest.condition_columns], tiny_bundle.manifest.grid, ReadOptions()
        )
    prepare_cohort(write_and_keep(case, place), place / "cache", tiny_bundle.manifest.grid, skip_invalid=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MOST_BYTES
    assert snapshot(case) == before
    assert {path.name for path in place.iterdir()} <= {"case", "out", "cache", "cohort"}


def write_and_keep(case: Path, place: Path) -> Path:
    """A cohort of the wounded case and a sound one, so that something is left where faulty cases are."""
    cohort = place / "cohort"
    shutil.copytree(case, cohort / "case")
    write_case(cohort, "sound")
    return cohort


def test_a_damaged_cache_is_made_again(tiny_bundle: Bundle, listed: Path, tmp_path: Path) -> None:
    describe(listed, "a")
    cache, grid = tmp_path / "cache", tiny_bundle.manifest.grid
    whole = prepare_cohort(listed, cache, grid)
    expected = snapshot(cache)
    for name in list(expected):
        for damage in (b"", b"{", expected[name][:40]):
            (cache / name).write_bytes(damage)
            assert prepare_cohort(listed, cache, grid) == whole
            assert snapshot(cache) == expected


def test_outputs_are_not_what_somebody_else_made(listed: Path, tmp_path: Path, capsys) -> None:
    """Directories with other files are refused by the commands that fill one; nothing in them changes."""
    describe(listed, "a")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "samples.png").write_bytes(b"mine")
    (mine / "evaluation.md").write_bytes(b"mine")
    before = snapshot(tmp_path)
    commands = (
        ["train", "--data", str(listed), "--out", str(mine), "--workers", "1"],
        ["evaluate", "--real", str(listed), "--synthetic", str(listed), "--out", str(mine)],
        ["phantom", "--count", "1", "--out", str(mine)],
        ["export", "--checkpoint", str(listed), "--out", str(mine)],
    )
    for command in commands:
        assert main(command) == 2
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("out", ["/proc/x", "pipe", "file/x"])
def test_outputs_that_cannot_be_are_refused_before_the_work(listed: Path, tmp_path: Path, out: str) -> None:
    describe(listed, "a")
    (tmp_path / "file").write_bytes(b"mine")
    os.mkfifo(tmp_path / "pipe")
    target = str(tmp_path / out)  # an absolute path stays as it is
    for command in (
        ["train", "--data", str(listed), "--out", target, "--workers", "1"],
        ["train", "--data", str(listed), "--out", str(tmp_path / "t"), "--cache", target, "--workers", "1"],
        ["evaluate", "--real", str(listed), "--synthetic", str(listed), "--out", target],
        ["phantom", "--count", "1", "--out", target],
        ["conditions", "measure", str(listed), "--out", target],
        ["data", "check", str(listed), f"--preview={target}"],
    ):
        assert main(command) == 2, command
    assert (tmp_path / "pipe").is_fifo()

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.schemas import held_to


def hashes(directory: Path, pattern: str = "*") -> dict[str, str]:
    return {
        p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in directory.rglob(pattern)
        if p.is_file() and p.name != "audit.jsonl"  # which has a clock in it
    }


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A case in BraTS layout: a ball of a brain with a ball of a tumour, LPS, 3 mm."""
    folder = tmp_path / "BraTS2021_00001"
    folder.mkdir()
    shape, affine = (64, 64, 51), np.diag([-3.0, -3.0, 3.0, 1.0])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * 3.0
    centre = np.array(shape) * 1.5
    brain = np.linalg.norm(index - centre, axis=-1) < 60
    core = np.linalg.norm(index - centre - [20, 0, 0], axis=-1)
    rng = np.random.default_rng(0)
    for modality in ("t1", "t1ce", "t2", "flair"):
        data = np.where(brain, 300 + 400 * (core < 20) + rng.normal(0, 20, shape), 0).astype(np.int16)
        nib.Nifti1Image(data, affine).to_filename(folder / f"BraTS2021_00001_{modality}.nii.gz")
    label = np.select([core < 6, core < 12, core < 20], [1, 4, 2], 0).astype(np.uint8)
    nib.Nifti1Image(label, affine).to_filename(folder / "BraTS2021_00001_seg.nii.gz")
    return folder


def augment(bundle: Bundle, case: Path, out: Path, *arguments: object) -> int:
    fixed = ["augment", str(case), "--bundle", str(bundle.path), "--steps", "4", "--threads", "1", "--quiet"]
    return main([*fixed, "--out", str(out), *map(str, arguments)])


def test_a_run_like_any_other(tiny_bundle: Bundle, case: Path, tmp_path: Path) -> None:
    table = tmp_path / "cond.csv"
    table.write_text("id,volume_ml\nsmall,12\nlarge,40\n")
    asked = ("--conditions", table, "--strength", 0.5)
    assert augment(tiny_bundle, case, tmp_path / "a", *asked) == 0
    rows = list(csv.DictReader((tmp_path / "a/manifest.csv").open()))
    assert [r["id"] for r in rows] == ["small", "large"]
    recorded = json.loads((tmp_path / "a/run.json").read_text())
    assert recorded["source"]["strength"] == 0.5
    assert "derived from the scan of a case" in recorded["notice"]
    header = nib.load(tmp_path / "a/sbldm-000000/sbldm-000000_t1.nii.gz").header
    assert b"from a real case" in bytes(header["descrip"])
    expected = hashes(tmp_path / "a")
    (tmp_path / "a/sbldm-000001/sbldm-000001_t2.nii.gz").unlink()
    assert augment(tiny_bundle, case, tmp_path / "a", *asked, "--resume") == 0
    assert hashes(tmp_path / "a") == expected
    assert main(["verify", str(tmp_path / "a")]) == 0


def options_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Options that have a line of their own; others may be named in a text."""
    assert main([command, "--help"]) == 0
    return set(re.findall(r"(?m)^\W*(--[a-z][a-z-]+)", capsys.readouterr().out))


def test_it_has_every_option_of_generate_but_those_of_a_training_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A case derived from a real one must not reach the folds that validate on that one: no --add-to."""
    generate, own = options_of("generate", capsys), options_of("augment", capsys)
    assert {"--batch-size", "--workers", "--shard", "--reject", "--metrics-file"} <= own
    assert generate - own == {"--add-to", "--splits", "--link", "--exclude-copies"}
    lesions = {"--insert", "--remove", "--volumes", "--margin", "--mass-effect"}
    assert own - generate == {"--strength", "--map", "--identity"} | lesions


def test_the_options_of_a_run_do_what_they_do_in_generate(
    tiny_bundle: Bundle, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--count", 3, "--batch-size", 2, "--layout", "nnunet", "--reject", 0.01, "--attempts", 1, "--seed", 5)
    shown = ("--json", "--preview", "--metrics-file", tmp_path / "m.prom", "--precision", "fp32")
    assert augment(tiny_bundle, case, tmp_path / "whole", *asked, *shown) == 0
    result = held_to("generate", capsys.readouterr().out)
    assert (result["made"], result["resolved"]["batch_size"]) == (3, 2)
    assert "sbldm_volumes_done_total 3" in (tmp_path / "m.prom").read_text()
    (tmp_path / "whole/preview.png").unlink()
    expected = hashes(tmp_path / "whole")
    assert "imagesTr/sbldm-000002_0003.nii.gz" in expected
    assert augment(tiny_bundle, case, tmp_path / "some", *asked, "--samples", 2) == 0
    some = hashes(tmp_path / "some", "*.nii.gz")
    assert len(some) == 5
    assert some.items() < expected.items()
    assert augment(tiny_bundle, case, tmp_path / "workers", *asked, "--workers", 2) == 0
    assert hashes(tmp_path / "workers") == expected
    for index in (0, 1):
        assert augment(tiny_bundle, case, tmp_path / f"{index}", *asked, "--shard", f"{index}/2") == 0
    assert main(["merge", str(tmp_path / "0"), str(tmp_path / "1"), "--out", str(tmp_path / "merged")]) == 0
    assert hashes(tmp_path / "merged") == expected
    assert augment(tiny_bundle, case, tmp_path / "bad", "--count", 0, "--names", "1999", "--log-format", "text") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --count 0: must be 1 or more\n--names 1999: allowed: 2021, 2023\nmore: ")


def test_strength_zero_returns_the_reconstruction_whatever_the_seed(
    tiny_bundle: Bundle, case: Path, tmp_path: Path
) -> None:
    for seed in (1, 2):
        assert augment(tiny_bundle, case, tmp_path / f"zero{seed}", "--count", 1, "--strength", 0, "--seed", seed) == 0
        assert (
            augment(tiny_bundle, case, tmp_path / f"some{seed}", "--count", 1, "--strength", 0.5, "--seed", seed) == 0
        )
    labels = {name: hashes(tmp_path / name, "*.nii.gz") for name in ("zero1", "zero2", "some1", "some2")}
    arrays = {
        name: np.asarray(nib.load(tmp_path / name / "sbldm-000000/sbldm-000000_t1.nii.gz").dataobj) for name in labels
    }
    assert np.array_equal(arrays["zero1"], arrays["zero2"])
    assert not np.array_equal(arrays["some1"], arrays["some2"])


def test_another_case_or_strength_is_another_run(tiny_bundle: Bundle, case: Path, tmp_path: Path, capsys) -> None:
    assert augment(tiny_bundle, case, tmp_path / "a", "--count", 1) == 0
    assert augment(tiny_bundle, case, tmp_path / "a", "--count", 1, "--strength", 0.7, "--resume") == 2
    assert "at strength 0.5, asked for case" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "arguments", "code", "named"),
    [
        (lambda case: (case / "BraTS2021_00001_t2.nii.gz").unlink(), (), 3, "t2"),
        (lambda case: (case / "BraTS2021_00001_seg.nii.gz").write_bytes(b"x"), (), 3, "seg"),
        (lambda case: None, ("--strength", 1.5), 2, "--strength 1.5"),
        (lambda case: None, ("--strength", "nan"), 2, "--strength"),
        (lambda case: [p.unlink() for p in case.iterdir()], (), 3, "BraTS2021_00001"),
    ],
)
def test_bad_cases_are_refused(tiny_bundle, case, tmp_path, capsys, break_it, arguments, code, named) -> None:
    break_it(case)
    assert augment(tiny_bundle, case, tmp_path / "out", "--count", 1, *arguments) == code
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_such_folder(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    assert augment(tiny_bundle, tmp_path / "nothing", tmp_path / "out", "--count", 1) == 3
    assert "no such directory" in capsys.readouterr().err

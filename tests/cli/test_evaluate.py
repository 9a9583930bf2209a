from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.scans.options import ReadOptions
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.data.samples import only_scans
from sbldm.train.evaluation.phantom_segmenter import PhantomSegmenter
from sbldm.train.evaluation.run import EvaluationOptions, load_cohorts

from tests.support.scans import as_sample
from tests.support.schemas import held_to

SECTIONS = ("Compared", "Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Consistency")
SHAPE = (40, 42, 36)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def write_case(folder: Path, name: str, seed: int) -> None:
    """A small skull-stripped scan in BraTS layout: a ball with a lump of three tissues."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij"))
    radius = np.sqrt((index**2).sum(0))
    lump = np.sqrt(((index - rng.uniform(-4, 4, (3, 1, 1, 1))) ** 2).sum(0))
    label = np.select([lump < 3, lump < 5, lump < 8], [1, 4, 2], 0).astype(np.uint8)
    (folder / name).mkdir(parents=True)
    for modality in ("t1", "t1ce", "t2", "flair"):
        image = np.where(radius < 17, rng.normal(500, 40, SHAPE) + 60 * label, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), folder / name / f"{name}_{modality}.nii.gz")
    nib.save(nib.Nifti1Image(label, AFFINE), folder / name / f"{name}_seg.nii.gz")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    for number in range(6):
        write_case(root / "cohort", f"C{number}", number)
    for number in range(2):
        write_case(root / "run", f"sbldm-{number:06d}", 50 + number)
    head = "id,requested_volume_ml,measured_volume_ml"
    (root / "run" / "manifest.csv").write_text(f"{head}\n0,2.0,2.1\n1,2.2,2.1\n")
    return root


def test_evaluate_writes_figures_table_and_plots(
    folders: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, run, out = str(folders / "cohort"), str(folders / "run"), folders / "out"
    arguments = ["--real", cohort, "--train", cohort, "--held-out", "3", "--synthetic", run, "--out", str(out)]
    arguments += ["--segmenter-steps", "2", "--bundle", str(tiny_bundle.path), "--any-settings"]
    assert main(["evaluate", *arguments, "--pairs", "1", "--workers", "1", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert text.strip() == (out / "evaluation.md").read_text().strip()
    figures = held_to("evaluate", (out / "evaluation.json").read_text())
    assert [figures["inputs"][side]["cases"] for side in ("real", "synthetic", "train")] == [3, 2, 3]
    assert figures["fid"].startswith("not computed")
    assert figures["adherence"]["volume_ml"]["samples"] == 2
    assert figures["anatomy"]["inside_brain"]["synthetic"]["value"] == 1
    assert figures["adherence_errors"]["volume_ml"]["bias"]["value"] == pytest.approx((0.1 / 2 - 0.1 / 2.2) / 2)
    assert figures["memorisation"]["reason"].startswith("3 held-out cases")
    assert figures["command"].startswith("sbldm-engine evaluate --real")
    assert figures["agreement"]["wt"]["real"]["n"] == 3
    assert set(figures["agreement"]["segmenter"].split()) >= {"2", "steps", "cases"}
    assert figures["not_measured"]["distribution"] == "needs 8 real cases and 4 samples"
    assert [text.index(f"## {name}") for name in SECTIONS] == sorted(text.index(f"## {name}") for name in SECTIONS)
    names = {path.stem for path in out.glob("*.png")}
    assert names == {"samples", "characteristics", "intensities", "texture", "agreement", "adherence"}


def test_json_goes_to_stdout(folders: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--real", str(folders / "cohort"), "--synthetic", str(folders / "run"), "--out", str(folders / "out2")]
    arguments += ["--bundle", str(tiny_bundle.path), "--held-out", "2", "--pairs", "1", "--workers", "1"]
    arguments += ["--segmenter-steps", "0", "--any-settings"]
    assert main(["evaluate", *arguments, "--quiet", "--json"]) == 0
    figures = held_to("evaluate", capsys.readouterr().out)
    assert figures["inputs"]["real"]["cases"] == 2
    assert figures["not_measured"]["memorisation"] == "no --train DIR was given"
    assert figures["not_measured"]["agreement of image and mask"] == "--segmenter-steps is 0"
    assert "holds no run.json" in figures["inputs"]["deviations"][0]


def test_samples_alone_tell_what_needs_no_real_case(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folders / "alone"
    arguments = ["--synthetic", str(folders / "run"), "--out", str(out), "--pairs", "1", "--workers", "1"]
    assert main(["evaluate", *arguments]) == 0
    figures = held_to("evaluate", (out / "evaluation.json").read_text())
    assert figures["inputs"]["real"] is None
    assert figures["adherence"]["volume_ml"]["samples"] == 2
    found = figures["anatomy"]["inside_brain"]
    assert (found["synthetic"]["value"], found["real"]["value"], found["ratio"]["value"]) == (1, None, None)
    agreed, shipped = figures["agreement"]["wt"], PhantomSegmenter()
    assert agreed["real"]["value"] == pytest.approx(shipped.dice[:, 0].mean())
    assert agreed["real"]["n"] == len(shipped.dice)
    assert agreed["synthetic"]["n"] == agreed["swapped"]["n"] == 2
    assert figures["agreement"]["fitted"] == shipped.trained_on
    assert sum(group["dice"]["n"] for group in figures["consistency"]) == 2
    assert figures["not_measured"]["memorisation"] == "no --real DIR was given"
    assert "--bundle" in figures["not_measured"]["whether the samples are a bundle's defaults"]
    text, progress = capsys.readouterr()
    assert progress.count("agreement of image and mask") == 1
    assert "Image and mask, by a segmenter trained on phantoms" in text
    assert "## Congruence" not in text
    assert {path.stem for path in out.glob("*.png")} == {"samples", "agreement", "adherence"}


def test_other_grids_are_not_judged(folders: Path, tiny_bundle: Bundle) -> None:
    out = folders / "alone2"
    arguments = ["--synthetic", str(folders / "run"), "--bundle", str(tiny_bundle.path), "--any-settings"]
    arguments += ["--out", str(out), "--pairs", "1", "--workers", "1", "--quiet"]
    assert main(["evaluate", *arguments]) == 0
    figures = json.loads((out / "evaluation.json").read_text())
    assert "takes 128 x 128 x 64 voxels" in figures["not_measured"]["agreement of image and mask"]
    assert "agreement" not in figures


def test_a_bundle_gives_reconstructions(folders: Path, tiny_bundle: Bundle) -> None:
    cohort, out = str(folders / "cohort"), folders / "out3"
    arguments = ["--real", cohort, "--train", cohort, "--held-out", "2", "--synthetic", str(folders / "run")]
    arguments += [
        "--bundle",
        str(tiny_bundle.path),
        "--reconstruct",
        "--out",
        str(out),
        "--pairs",
        "1",
        "--workers",
        "1",
        "--segmenter-steps",
        "0",
        "--any-settings",
    ]
    assert main(["evaluate", *arguments, "--quiet"]) == 0
    figures = held_to("evaluate", (out / "evaluation.json").read_text())
    assert figures["inputs"]["bundle"] == {"id": tiny_bundle.manifest.id, "sha256": tiny_bundle.sha256}
    assert figures["inputs"]["grid"]["shape"] == list(tiny_bundle.manifest.grid.shape)
    assert set(figures["reconstruction"]["cases"]) == {"C4", "C5"}
    assert figures["reconstruction"]["refined"]["psnr"]["value"] > 0
    assert set(figures["reconstruction"]["dice"]) == {"wt", "tc", "et"}
    assert (out / "reconstruction.png").is_file()
    assert "## Reconstruction" in (out / "evaluation.md").read_text()


def test_reconstruction_alone_needs_no_samples(folders: Path, tiny_bundle: Bundle) -> None:
    out = folders / "out4"
    arguments = ["--real", str(folders / "run"), "--bundle", str(tiny_bundle.path), "--reconstruct", "--out", str(out)]
    assert main(["evaluate", *arguments, "--workers", "1", "--quiet"]) == 0
    assert {path.name for path in out.glob("*.png")} == {"reconstruction.png"}


def test_card_holds_the_tables_and_the_command(folders: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, copy)
    arguments = ["--real", str(folders / "run"), "--bundle", str(copy), "--reconstruct", "--out", str(tmp_path / "out")]
    for _ in range(2):
        assert main(["evaluate", *arguments, "--workers", "1", "--quiet", "--card"]) == 0
    card = (copy / "README.md").read_text()
    assert card.startswith((tiny_bundle.path / "README.md").read_text().rstrip())
    assert card.count("## Evaluation\n") == 1
    assert f"sbldm-engine evaluate --real {folders / 'run'} --bundle {copy} --reconstruct --workers 1" in card
    assert "### Reconstruction" in card
    assert load_bundle(copy).manifest.id == tiny_bundle.manifest.id


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--real", "cohort"], 2, "nothing to do"),
        (["--real", "cohort", "--synthetic", "run", "--card"], 2, "give --bundle PATH"),
        (["--real", "cohort", "--synthetic", "run", "--bundle", "phantom", "--card"], 2, "copy the folder"),
        (["--real", "cohort", "--reconstruct"], 2, "needs a bundle"),
        (["--synthetic", "run", "--train", "cohort"], 2, "--train needs real cases: give --real DIR"),
        (["--synthetic", "run", "--held-out", "2"], 2, "--held-out needs real cases"),
        (["--reconstruct", "--bundle", "phantom"], 2, "--reconstruct needs real cases"),
        (["--real", "cohort", "--train", "cohort", "--synthetic", "run"], 2, "same folder"),
        (["--real", "cohort", "--train", "cohort", "--synthetic", "run", "--held-out", "9"], 2, "has 6 cases"),
        (["--real", "cohort", "--synthetic", "run", "--held-out", "7"], 2, "cohort has 6 cases\n"),
        (["--real", "nowhere", "--synthetic", "run"], 3, "not a directory"),
        (["--real", "cohort", "--synthetic", "run", "--bundle", "nowhere"], 3, "nowhere"),
        (["--real", "cohort", "--synthetic", "run", "--bundle", "phantom"], 2, "say --any-settings"),
    ],
)
def test_faults_say_what_to_do(
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(folders)
    assert (
        main(["evaluate", *arguments, "--cache", str(folders / "out" / "cache"), "--workers", "1", "--quiet"]) == code
    )
    assert message in capsys.readouterr().err


def test_samples_are_no_real_cases(
    folders: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, cache = tmp_path / "real", str(tmp_path / "cache")
    for number in range(3):
        write_case(real, f"R{number}", 70 + number)
    as_sample(real / "R1")
    arguments = ["evaluate", "--bundle", str(tiny_bundle.path), "--out", str(tmp_path / "out"), "--cache", cache]
    arguments += ["--synthetic", str(folders / "run"), "--any-settings", "--workers", "1"]
    assert main([*arguments, "--real", str(real)]) == 3
    assert "1 case cannot be used\n  R1: was made by sbldm-engine" in capsys.readouterr().err
    assert main([*arguments, "--real", str(folders / "cohort"), "--train", str(real), "--fid-network", "none"]) == 3
    told = capsys.readouterr().err
    assert "1 case made by sbldm-engine, such as R1" in told
    assert "none: no such file" in told
    assert "fidelity of" not in told  # refused before minutes of measuring
    scans = only_scans(prepare_cohort(real, Path(cache), tiny_bundle.manifest.grid), real, skip_invalid=True)
    assert (scans.cases, list(scans.left_out)) == (("R0", "R2"), ["R1"])
    for name in ("R0", "R2"):
        as_sample(real / name)
    assert main([*arguments, "--real", str(real), "--skip-invalid"]) == 3
    assert "all of its cases were made by sbldm-engine" in capsys.readouterr().err


def test_held_out_cases_are_the_last_ones_where_training_cases_lie_elsewhere_too(
    folders: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    for number in range(2):
        write_case(tmp_path / "train", f"T{number}", 90 + number)
    options = EvaluationOptions(
        folders / "cohort", None, tmp_path / "train", tmp_path / "cache", 2, 1, True, None, 0, False, 1, False,
        ReadOptions(),
    )  # fmt: skip
    found = load_cohorts(options, tiny_bundle)
    assert found.real is not None
    assert found.train is not None
    assert (found.real.cases, found.train.cases) == (("C4", "C5"), ("T0", "T1"))
    shutil.copytree(folders / "cohort" / "C4", tmp_path / "leaky" / "C4")
    with pytest.raises(InvalidInputError, match="C4 is C4, or has its images"):
        load_cohorts(dataclasses.replace(options, train=tmp_path / "leaky"), tiny_bundle)
    assert load_cohorts(dataclasses.replace(options, train=tmp_path / "leaky", held_out=1), tiny_bundle).train
    with pytest.raises(UsageError, match=r"--held-out 7: .*cohort has 6 cases$"):
        load_cohorts(dataclasses.replace(options, held_out=7), tiny_bundle)


def test_samples_of_other_settings_are_refused_unless_said_so(
    folders: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cohort = tmp_path / "run", str(folders / "cohort")
    made = ["generate", "--bundle", str(tiny_bundle.path), "--count", "1", "--steps", "2", "--threads", "1"]
    assert main([*made, "--out", str(tmp_path / "made"), "--quiet"]) == 0
    shutil.copytree(folders / "run", run)  # an untrained model makes no brains
    shutil.copy(tmp_path / "made" / "run.json", run)
    arguments = ["evaluate", "--real", cohort, "--synthetic", str(run), "--bundle", str(tiny_bundle.path)]
    arguments += ["--out", str(tmp_path / "out"), "--workers", "1", "--segmenter-steps", "0", "--quiet"]
    assert main(arguments) == 2
    usual = tiny_bundle.manifest.defaults.steps
    assert f"steps 2, the bundle's default is {usual}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "evaluation.json").exists()
    assert main([*arguments, "--any-settings", "--pairs", "1"]) == 0
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures["inputs"]["run"]["steps"] == 2
    assert "--steps 2" in figures["inputs"]["run"]["command"]
    assert figures["inputs"]["deviations"] == [f"steps 2, the bundle's default is {usual}"]
    assert "## Comprehension" in capsys.readouterr().out

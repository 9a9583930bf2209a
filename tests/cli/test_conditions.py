"""`conditions check | measure | sample`, in process, on tiny cohorts and a bundle without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx.helper
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import record_files
from sbldm.engine.bundle.manifest import (
    COMPONENT_OUTPUTS,
    DEFAULT_GRID,
    MANIFEST_NAME,
    MODALITIES,
    SCHEMA_VERSION,
    TISSUES,
    BundleManifest,
    ComponentSpec,
    LatentSpec,
    NoiseSchedule,
    Provenance,
    SamplingDefaults,
    manifest_bytes,
)
from sbldm.engine.conditions.columns import BINARY_COLUMNS, COLUMNS, fit_columns, sphere_surface_cm2
from sbldm.engine.conditions.csv import read_conditions
from sbldm.engine.conditions.distribution import fit

EXAMPLE = Path(__file__).parents[2] / "examples" / "conditions.csv"
VIEW = DEFAULT_GRID.fov_mm
BRATS = np.diag([-1.0, -1.0, 1.0, 1.0])


def manifest(columns: tuple[str, ...]) -> BundleManifest:
    rng = np.random.default_rng(0)
    volume, sphericity = np.exp(rng.normal(3.2, 0.8, 300)), rng.uniform(0.4, 0.75, 300)
    sides = np.cbrt(6000 * volume / np.pi)[:, None] * rng.uniform(1.1, 1.5, (300, 3)) / np.array(VIEW)
    shares = rng.dirichlet([2, 6, 2], 300)
    surface = sphere_surface_cm2(volume) / sphericity
    centre = rng.uniform(0.3, 0.7, (300, 3))
    rows = np.column_stack([volume, surface, sphericity, centre, np.minimum(sides, 1), shares])[:, : len(columns)]
    return BundleManifest(
        schema_version=SCHEMA_VERSION,
        form="slices",
        id="tiny",
        preset="phantom",
        grid=DEFAULT_GRID,
        modalities=MODALITIES,
        labels=("background", *TISSUES),
        background_threshold=0.0,
        latent=LatentSpec((4, 64, 16, 16), (1.0,) * 4, "nothing"),
        schedule=NoiseSchedule("two steps", "epsilon", "leading", (0.9, 0.1)),
        defaults=SamplingDefaults("ddim", 2, 0.0, 1.0),
        mask_first=None,
        condition_columns=fit_columns(rows, columns),
        cohort=fit(rows, columns, VIEW),
        components={name: ComponentSpec(f"{name}.onnx", (), ()) for name in COMPONENT_OUTPUTS["slices"]},
        files={},
        opset=21,
        precision="fp32",
        provenance=Provenance("none", "none", "0", "2024-01-01", "Apache-2.0"),
        intended_use="tests",
    )


def write_bundle(path: Path, columns: tuple[str, ...]) -> str:
    path.mkdir()
    for name in COMPONENT_OUTPUTS["slices"]:
        graph = onnx.helper.make_graph([], name, [], [])
        (path / f"{name}.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    (path / MANIFEST_NAME).write_bytes(manifest_bytes(replace(manifest(columns), files=record_files(path))))
    return str(path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", COLUMNS)


@pytest.fixture(scope="module")
def binary_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "binary", BINARY_COLUMNS)


def write_label(path: Path, label: np.ndarray, affine: np.ndarray = BRATS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), path)


def tumour(size: int = 40, enhancing: int = 4) -> np.ndarray:
    label = np.zeros((size, size, size), np.uint8)
    label[5:15, 6:16, 8:20] = 2
    label[8:12, 8:12, 10:14] = 1
    label[8:12, 8:12, 14:16] = enhancing
    return label


def test_the_example_is_sound_and_usual(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conditions", "check", str(EXAMPLE), "--bundle", bundle, "--strict"]) == 0
    assert capsys.readouterr().out.startswith(f"{EXAMPLE}: 8 rows for tiny; given: volume_ml 6")


def test_faults_leave_with_exit_code_3(tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cond.csv"
    file.write_text("id,volume_ml,size\na,-4,1\n")
    assert main(["conditions", "check", str(file), "--bundle", bundle]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{file}:1: size: column 3: not a condition" in told.err
    assert f"{file}:2: volume_ml: -4: 0.1 to 1415.58 ml" in told.err


def test_unusual_rows_are_warned_of_and_refused_when_strict(
    tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cond.csv"
    file.write_text("volume_ml\n20\n1400\n")
    assert main(["conditions", "check", str(file), "--bundle", bundle]) == 0
    assert f"warning: {file}:3: far from the 300 training cases" in capsys.readouterr().err
    assert main(["conditions", "check", str(file), "--bundle", bundle, "--strict"]) == 3
    assert f"error: {file}:3:" in capsys.readouterr().err


def test_a_model_without_tissue_labels_knows_no_shares(binary_bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conditions", "check", str(EXAMPLE), "--bundle", binary_bundle]) == 3
    assert "no tissue labels" in capsys.readouterr().err


def test_a_cohort_is_measured_in_ras_and_passes_check(
    tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as notebooks do
    write_label(tmp_path / "data" / "A" / "A_seg.nii.gz", tumour())
    write_label(tmp_path / "data" / "B" / "B-seg.nii.gz", tumour(enhancing=3), np.diag([1.0, 1.0, 1.0, 1.0]))
    out = tmp_path / "cond.csv"
    assert main(["conditions", "measure", str(tmp_path / "data"), "--fov", "scan", "--out", str(out)]) == 0
    assert capsys.readouterr() == ("", "")
    table = read_conditions(out, COLUMNS, (40.0, 40.0, 40.0))
    first, second = (table.at(row)[1] for row in range(2))
    assert out.read_text().splitlines()[1].startswith("A,1.2,")
    assert first[3:6] == pytest.approx([1 - 10 / 40, 1 - 11 / 40, 14 / 40], abs=1e-5)
    assert second[3:6] == pytest.approx([10 / 40, 11 / 40, 14 / 40], abs=1e-5)
    assert first[6:9] == pytest.approx([10 / 40, 10 / 40, 12 / 40], abs=1e-5)
    assert first[9:] == pytest.approx([64 / 1200, 1104 / 1200, 32 / 1200], rel=1e-5)
    assert main(["conditions", "measure", str(tmp_path / "data")]) == 0
    out.write_text(capsys.readouterr().out)
    model = read_conditions(out, COLUMNS, VIEW).at(1)[1]
    assert model[3:6] == pytest.approx([(76 + 10) / 192, (76 + 11) / 192, (56.8 + 14) / 153.6], rel=1e-5)
    assert main(["conditions", "check", str(out), "--bundle", bundle]) == 0


def test_columns_of_a_model_without_tissue_labels(
    tmp_path: Path, binary_bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_label(tmp_path / "A_seg.nii.gz", tumour())
    assert main(["conditions", "measure", str(tmp_path), "--bundle", binary_bundle]) == 0
    assert capsys.readouterr().out.startswith(",".join(["id", *BINARY_COLUMNS]) + "\n")


def test_faulty_cases_are_all_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_label(tmp_path / "good_seg.nii.gz", tumour())
    write_label(tmp_path / "empty_seg.nii.gz", np.zeros((9, 9, 9)))
    write_label(tmp_path / "tiny_seg.nii.gz", np.eye(9)[None].repeat(9, 0))
    write_label(tmp_path / "odd_seg.nii.gz", np.full((9, 9, 9), 7))
    (tmp_path / "torn_seg.nii.gz").write_bytes((tmp_path / "good_seg.nii.gz").read_bytes()[:200])
    assert main(["conditions", "measure", str(tmp_path)]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    for name, fault in (
        ("empty", "empty mask"),
        ("tiny", "volume_ml: 0.081"),
        ("odd", "unknown label 7"),
        ("torn", ""),
    ):
        assert any(line.startswith(f"{name}: ") and fault in line for line in told.err.splitlines())
    assert main(["conditions", "measure", str(tmp_path), "--skip-invalid"]) == 0
    told = capsys.readouterr()
    assert [line.split(",")[0] for line in told.out.splitlines()] == ["id", "good"]
    assert "warning: left out:" in told.err


def test_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conditions", "measure", str(tmp_path / "nowhere")]) == 3
    write_label(tmp_path / "empty_seg.nii.gz", np.zeros((9, 9, 9)))
    assert main(["conditions", "measure", str(tmp_path), "--skip-invalid"]) == 3
    assert "no case is left" in capsys.readouterr().err


def test_one_case_under_two_names_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_label(tmp_path / "A_seg.nii.gz", tumour())
    write_label(tmp_path / "A-seg.nii.gz", tumour(enhancing=3))
    assert main(["conditions", "measure", str(tmp_path)]) == 3
    assert "A: is there twice" in capsys.readouterr().err


def test_drawn_conditions_pass_check_and_do_not_depend_on_the_count(
    tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drawn.csv"
    arguments = ["conditions", "sample", "--seed", "4", "--bundle", bundle]
    assert main([*arguments, "--count", "12", "--out", str(out)]) == 0
    assert main(["conditions", "check", str(out), "--bundle", bundle, "--strict"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--count", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == out.read_text().splitlines()[:4]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--count", "-3"], ["--count", "2", "--seed", "-1"], []])
def test_wrong_counts_and_seeds_are_a_usage_error(arguments: list[str]) -> None:
    assert main(["conditions", "sample", *arguments]) == 2


@pytest.mark.parametrize("out", [".", "missing/cond.csv"])
def test_an_output_that_cannot_be_written(
    tmp_path: Path, bundle: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / out
    assert main(["conditions", "sample", "--count", "1", "--bundle", bundle, "--out", str(target)]) == 2
    assert str(target) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""MONAI bundles: MONAI accepts them and runs them, and what it gets are the engine's bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.errors import IncompleteRunError, UsageError
from sbldm.engine.monai_workflow import DirectoryRun

TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
}
SCHEMA = {  # what MONAI's specification asks of metadata.json; the published schema is not ours to copy
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    ],
    "properties": {
        **{name: {"type": "string"} for name in ("schema", "version", "monai_version", "pytorch_version",
            "numpy_version", "task", "description", "authors", "copyright", "data_source", "intended_use")},
        **{name: {"type": "object"} for name in ("changelog", "required_packages_version", "supported_apps")},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                side: {"type": "object", "minProperties": 1, "patternProperties": {"^.+$": TENSOR}}
                for side in ("inputs", "outputs")
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def monai_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as a MONAI bundle. Do not write to it."""
    out = tmp_path_factory.mktemp("monai") / "Tiny"
    assert main(["export", "--bundle", str(tiny_bundle.path), "--monai-bundle", str(out)]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop("audit.jsonl", None)  # has a clock in it
    return found


def test_it_holds_the_bundle_byte_for_byte(monai_bundle: Path, tiny_bundle: Bundle) -> None:
    models = load_bundle(monai_bundle / "models")
    assert (models.sha256, files_of(models.path)) == (tiny_bundle.sha256, files_of(tiny_bundle.path))
    others = {name for name in files_of(monai_bundle) if not name.startswith("models/")}
    assert others == {"configs/metadata.json", "configs/inference.json", "docs/README.md", "LICENSE"}
    assert tiny_bundle.manifest.intended_use in (monai_bundle / "docs" / "README.md").read_text()
    assert tiny_bundle.manifest.provenance.licence in (monai_bundle / "LICENSE").read_text()
    metadata = json.loads((monai_bundle / "configs" / "metadata.json").read_text())
    outputs = metadata["network_data_format"]["outputs"]
    assert outputs["image"]["spatial_shape"] == outputs["label"]["spatial_shape"] == [16, 16, 8]
    assert outputs["image"]["channel_def"] == {"0": "t1", "1": "t1ce", "2": "t2", "3": "flair"}
    assert outputs["label"]["channel_def"] == {"0": "background", "1": "ncr", "2": "ed", "3": "et"}


def test_monai_accepts_its_metadata(monai_bundle: Path, tmp_path: Path) -> None:
    monai = pytest.importorskip("monai.bundle")
    schema, spoiled = tmp_path / "schema.json", tmp_path / "metadata.json"
    schema.write_text(json.dumps(SCHEMA))
    metadata = monai_bundle / "configs" / "metadata.json"
    monai.verify_metadata(meta_file=str(metadata), filepath=str(schema))
    spoiled.write_text(json.dumps({**json.loads(metadata.read_text()), "network_data_format": {"inputs": {}}}))
    with pytest.raises(ValueError, match="Failed validating"):
        monai.verify_metadata(meta_file=str(spoiled), filepath=str(schema))


def test_its_configuration_has_every_property_that_monai_asks_for(monai_bundle: Path, tmp_path: Path) -> None:
    monai = pytest.importorskip("monai.bundle")
    workflow = monai.ConfigWorkflow(
        config_file=str(monai_bundle / "configs" / "inference.json"), workflow_type="infer",
        bundle_root=str(monai_bundle), output_dir=str(tmp_path / "out"), threads=1, seed=3, steps=1, count=2,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    (first,) = workflow.inferer(1, seed=3, steps=1)
    item = workflow.dataset[0]
    assert (item["image"] * 1000).round().astype(int).tolist() == first.image.tolist()
    assert len(workflow.dataset) == 2
    workflow.run()
    assert len(list((tmp_path / "out").glob("sbldm-*/*_seg.nii.gz"))) == 2


@pytest.mark.slow
def test_monai_runs_it_and_gets_the_bytes_of_generate(monai_bundle: Path, tmp_path: Path) -> None:
    for needed in ("monai", "fire"):
        pytest.importorskip(needed)
    conditions = tmp_path / "cond.csv"
    conditions.write_text("id,volume_ml\na,40\nb,\n")
    options = ["--conditions", str(conditions), "--seed", "5", "--steps", "2", "--threads", "1", "--layout", "nnunet"]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    run = subprocess.run(
        [*command, *options, "--output_dir", str(tmp_path / "monai")], cwd=monai_bundle, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    ours = ["generate", "--bundle", str(monai_bundle / "models"), *options, "--out", str(tmp_path / "ours"), "--quiet"]
    assert main(ours) == 0
    found = files_of(tmp_path / "monai")
    assert len(found) > 10
    assert found == files_of(tmp_path / "ours")


def test_a_run_of_a_configuration_refuses_what_generate_refuses(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="no argument step, perhaps steps"):
        DirectoryRun(tiny_bundle.path, out, step=2)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="layout"):
        DirectoryRun(tiny_bundle.path, out, layout="dicm").run()  # type: ignore[arg-type]
    assert not out.exists()
    assert DirectoryRun(tiny_bundle.path, out, steps=1, threads=1).run().made == 1
    with pytest.raises(UsageError, match="resume"):
        DirectoryRun(tiny_bundle.path, out, steps=1, threads=1).run()
    assert DirectoryRun(tiny_bundle.path, out, steps=1, threads=1, resume=True).run().already_done == 1


def test_failed_samples_end_a_run_of_a_configuration(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbldm.engine.run.writer.Finisher.measure", lambda *_: "broken")
    with pytest.raises(IncompleteRunError, match="1 samples failed"):
        DirectoryRun(tiny_bundle.path, tmp_path / "run", steps=1, threads=1).run()


def test_nothing_is_written_over(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["export", "--bundle", str(tiny_bundle.path), "--monai-bundle", str(tmp_path)]) == 2
    assert "is not an empty directory" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]

"""A sample in memory: saved as `generate` writes it, shown, handed on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sbldm
from PIL import Image
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import UsageError
from sbldm.engine.sample import Sample

ROWS = "id,volume_ml\nleft,20\nright-2,30\n"


@pytest.fixture(scope="module")
def sample(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    table = tmp_path_factory.mktemp("table") / "cond.csv"
    table.write_text(ROWS)
    with sbldm.load(tiny_bundle.path, threads=1) as generator:
        return generator.sample(1, conditions=table, seed=4, steps=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "brats", "names": "2023", "grid": "brats"},
        {"layout": "nnunet", "name_by": "id"},
        {"layout": "bids"},
    ],
)
def test_save_writes_the_bytes_of_generate(tiny_bundle: Bundle, sample: Sample, tmp_path: Path, options) -> None:
    table = tmp_path / "cond.csv"
    table.write_text(ROWS)
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    run = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "2", "--threads", "1", "--seed", "4", "--quiet"]
    assert main([*run, "--conditions", str(table), "--samples", "1", "--out", str(tmp_path / "run"), *flags]) == 0
    saved = sample.save(tmp_path / "saved", **options)
    assert list(saved) == ["t1", "t1ce", "t2", "flair", "seg"]
    for path in saved.values():
        assert path.read_bytes() == (tmp_path / "run" / path.relative_to(tmp_path / "saved")).read_bytes()
    assert sample.save(tmp_path / "saved", **options) == saved


def test_save_replaces_no_other_file(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "sbldm-000001").mkdir()
    (tmp_path / "sbldm-000001" / "sbldm-000001_seg.nii.gz").write_bytes(b"mine")
    with pytest.raises(UsageError, match="other content"):
        sample.save(tmp_path)
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directory": None}, "^directory None: must be a path$"),
        ({"directory": ""}, "^directory '': is no path"),
        (
            {"folder": "x"},
            "^Sample.save: no argument folder.*its arguments are directory, layout, names, ",
        ),
        ({"layout": "dicomdir"}, "^layout dicomdir: allowed: brats, nnunet, bids, dicom$"),
        ({"names": "2022"}, "^names 2022: allowed: 2021, 2023$"),
        ({"grid": "mni"}, "^grid 'mni': allowed: native, brats$"),
        ({"name_by": "row"}, "^name_by 'row': allowed: sample, id$"),
        ({"name_by": "id", "layout": "bids"}, "^id 'right-2': must be letters and digits alone"),
    ],
)
def test_save_names_what_is_allowed(sample: Sample, tmp_path: Path, options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sample.save(**{"directory": tmp_path, **options})
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_the_picture(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    display = SimpleNamespace(display=shown.append)
    monkeypatch.setitem(
        sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=display)
    )
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    sample.show()
    assert shown[0].size == sample.picture().size
    assert sample._repr_png_().startswith(b"\x89PNG")
    assert repr(sample).startswith("<Sample 1 'right-2': t1, t1ce, t2, flair, 16 x 16 x 8, tumour ")


def test_without_a_display_no_viewer_is_started(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    viewed: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda picture, **_: viewed.append(picture))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r'sample.picture\(\).save\("sample-1.png"\)'):
        sample.show()
    assert not viewed
    monkeypatch.setenv("DISPLAY", ":0")
    sample.show()
    assert len(viewed) == 1


def test_packages_of_others_take_it(sample: Sample) -> None:
    item = sample.to_monai()
    assert np.allclose(item["image"].affine, sample.affine)
    assert item["label"].shape == (1, 16, 16, 8)
    subject = sample.to_torchio()
    assert subject.image.orientation == ("R", "A", "S")
    assert np.array_equal(subject.label.data[0].numpy(), sample.label)


def test_the_package_itself_is_cheap_and_says_what_it_has() -> None:
    code = "import sys, sbldm; sys.exit('numpy' in sys.modules or {'load', 'Sample'} - set(dir(sbldm)) != set())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert sbldm.Sample is Sample
    with pytest.raises(AttributeError, match="no attribute 'lod'; it has ChangedScan, Generator, Sample, Scan, __"):
        _ = sbldm.lod

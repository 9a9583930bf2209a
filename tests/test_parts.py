"""`.ci/parts.py`: the lock, the bill of materials and the licences of a release."""

from __future__ import annotations

import hashlib
import json
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "parts.py"
PARTS = runpy.run_path(str(SCRIPT))


def wheel(folder: Path, name: str, version: str, text: str | None = None) -> str:
    """A wheel with nothing but a licence text in it; its sha256."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        if text is not None:
            archive.writestr(f"{name}-{version}.dist-info/licenses/LICENSE", text)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def bill(*components: dict[str, Any]) -> dict[str, Any]:
    ours = {"name": "sbldm-engine", "version": "1.0", "licenses": [{"license": {"id": "Apache-2.0"}}]}
    return {"metadata": {"component": ours}, "components": list(components)}


def test_the_lock_names_every_wheel_once_with_its_hash(tmp_path: Path) -> None:
    ours = wheel(tmp_path, "sbldm_engine", "1.0")
    other = wheel(tmp_path, "Some.Package", "2.1")
    told = subprocess.run(
        [sys.executable, str(SCRIPT), "lock", str(tmp_path), "cpu,sign"], capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == [
        f"some-package==2.1 --hash=sha256:{other}",
        f"sbldm-engine[cpu,sign]==1.0 --hash=sha256:{ours}",
    ]


def test_the_bill_gets_hashes_and_what_is_no_package(tmp_path: Path) -> None:
    ours, other = wheel(tmp_path, "sbldm_engine", "1.0"), wheel(tmp_path, "other", "2.1")
    content = bill({"name": "other", "version": "2.1", "licenses": [{"expression": "MIT OR BSD-3-Clause"}]})
    rows = PARTS["complete"](content, tmp_path)
    assert content["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": ours}]
    by_name = {part["name"]: part for part in content["components"]}
    assert by_name["other"]["hashes"] == [{"alg": "SHA-256", "content": other}]
    assert ("other", "2.1", "MIT OR BSD-3-Clause") in rows
    for manifest in (ROOT / "engine" / "bundles").glob("*/bundle.json"):
        model = by_name[json.loads(manifest.read_bytes())["id"]]
        assert model["type"] == "machine-learning-model"
        assert model["hashes"][0]["content"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert {"@niivue/niivue", "fflate, inside of NiiVue"} <= by_name.keys()
    assert all(licence for _, _, licence in rows)


def test_a_package_without_a_licence_or_a_wheel_ends_the_release(tmp_path: Path) -> None:
    for name in ("sbldm_engine", "unnamed", "text"):
        wheel(tmp_path, name, "1.0", {"text": "\nMIT License\n\nPermission ..."}.get(name))
    content = bill(*({"name": name, "version": "1.0"} for name in ("unnamed", "text", "stranger")))
    with pytest.raises(SystemExit) as refused:
        PARTS["complete"](content, tmp_path)
    assert str(refused.value).splitlines() == [
        f"stranger 1.0: installed, but no wheel of {tmp_path}",
        "stranger 1.0: names no licence",
        "unnamed 1.0: names no licence",
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"license": {"id": "MIT"}}, "MIT"),
        ({"license": {"name": "License :: OSI Approved :: BSD License"}}, "BSD License"),
        ({"license": {"name": "declared license of 'x'", "text": {"content": "3-Clause BSD"}}}, "3-Clause BSD"),
        ({"license": {"name": "declared license of 'x'", "text": {"content": "Copyright " * 90}}}, ""),
        ({"license": {"name": "declared license file: LICENSE", "text": {"content": "TUlU"}}}, ""),
    ],
)  # fmt: skip
def test_what_a_bill_calls_a_licence(entry: dict[str, Any], said: str) -> None:
    assert PARTS["licence"]({"licenses": [entry]}) == said

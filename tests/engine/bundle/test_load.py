"""A name is a shipped bundle's, a path is a path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.bundle.pins import PINNED


def test_a_path_of_a_shipped_bundles_name_is_the_folder_here(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "phantom")
    monkeypatch.chdir(tmp_path)
    for given in (Path("phantom"), Path("./phantom"), "./phantom"):
        bundle = load_bundle(given)
        assert bundle.sha256 == tiny_bundle.sha256
        assert load_bundle(bundle.path).sha256 == tiny_bundle.sha256
    assert load_bundle("phantom").sha256 == PINNED["phantom"]

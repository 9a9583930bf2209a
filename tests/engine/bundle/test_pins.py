"""What lies in the package is what the code says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sbldm.engine.bundle import store
from sbldm.engine.bundle.load import Bundle, load_bundle, shipped_bundles
from sbldm.engine.bundle.manifest import MANIFEST_NAME
from sbldm.engine.bundle.pins import PINNED
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.files import sha256_file


def test_pins_are_the_shipped_bundles_hashes() -> None:
    """Where this fails after a bundle was added or exported anew: write its hash into engine/bundle/pins.py."""
    assert {name: sha256_file(store.BUNDLES / name / MANIFEST_NAME) for name in shipped_bundles()} == PINNED


@pytest.mark.parametrize("name", ["phantom", "unknown"])
def test_another_bundle_in_the_packages_folder_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / name)
    load_bundle(tmp_path / name)
    monkeypatch.setattr(store, "BUNDLES", tmp_path)
    for given in (name, tmp_path / name, tmp_path / "link"):
        with pytest.raises(InvalidInputError, match="is not the bundle that this version"):
            load_bundle(given)

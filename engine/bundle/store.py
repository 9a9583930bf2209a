"""Where bundles lie that a name is enough for: with the package, and in the folder of the models that were pulled.

Imports next to nothing: a shell completes names by it.
"""

from __future__ import annotations

import os
from pathlib import Path

MANIFEST_NAME = "bundle.json"
BUNDLES = Path(__file__).resolve().parents[1] / "bundles"  # that come with the package
MODELS_VARIABLE = "SBLDM_MODELS"


def models_folder() -> Path:
    """Folder of pulled models: $SBLDM_MODELS, else `models` in the user's data folder of sbldm-engine."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("sbldm-engine") / "models"


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return names_in(BUNDLES)


def pulled_bundles() -> list[str]:
    """Names of the bundles that were pulled, and are not hidden by a shipped one of that name."""
    return [name for name in names_in(models_folder()) if name not in shipped_bundles()]


def named_bundle(name: str) -> Path | None:
    """Folder of the bundle of a name, the shipped one before a pulled one; None where there is none."""
    for names, folder in ((shipped_bundles, BUNDLES), (pulled_bundles, models_folder())):
        if name in names():
            return folder / name
    return None


def names_in(folder: Path) -> list[str]:
    """Names of the bundles directly in a folder, sorted; what starts with a dot is being written."""
    return sorted(p.parent.name for p in folder.glob(f"*/{MANIFEST_NAME}") if not p.parent.name.startswith("."))

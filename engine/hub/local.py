"""The models of this machine that a name is enough for."""

from __future__ import annotations

from pathlib import Path

from ..bundle import store
from .index import Offer, offer_of


def local_offers() -> dict[Path, Offer]:
    """What the package and the folder of pulled models hold, by folder; files are hashed when a model is loaded."""
    places = {store.BUNDLES: store.shipped_bundles(), store.models_folder(): store.pulled_bundles()}
    return {folder: offer_of(folder, names) for folder, names in places.items() if names}

"""What a written case is, for whoever meets its files later; and the identity that its instances get."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass

SYNTHETIC = "SYNTHETIC sbldm-engine"


def shown(origin: str) -> str:
    """What volumes show, for who meets them; `origin` is what they were made from, "" for noise alone."""
    return f"{origin}, protect it as that" if origin else "shows no patient"


@dataclass(frozen=True)
class Study:
    """Patient, study and frame of reference of a source that its answer is to keep."""

    elements: tuple[tuple[str, str], ...]  # keyword -> value, of the patient and the study
    frame_of_reference: str
    position_reference: str


@dataclass(frozen=True)
class CaseAbout:
    """Where a case comes from."""

    version: str  # of sbldm-engine
    bundle_id: str
    recipe: str  # sha256 of bundle, seed, sampling options and source: with the sample's number it fixes the case
    seed: int
    sample: int
    requested: tuple[tuple[str, float], ...]  # the conditions that the model was given
    origin: str = ""  # what it was made from, "" for noise alone
    study: Study | None = None  # that is kept; None: a study of its own

    @property
    def description(self) -> str:
        """One line, as `descrip` of NIfTI files."""
        origin = f"{self.origin}, " if self.origin else ""
        return f"{SYNTHETIC} {self.version} {origin}seed {self.seed} sample {self.sample}"

    def uid(self, *parts: object) -> str:
        """A DICOM UID that follows from the case and `parts` alone: 2.25 and a name-based UUID (PS3.5, B.2)."""
        name = json.dumps([self.recipe, self.sample, self.requested, *map(str, parts)], separators=(",", ":"))
        return f"2.25.{uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=5).int}"

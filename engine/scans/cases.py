"""The files of a data set's cases, before they are opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.manifest import MODALITIES
from .labels import LabelMap

if TYPE_CHECKING:
    from ..dicom.study import DicomStudy


@dataclass(frozen=True)
class ImageFile:
    """A modality's file; of a 4D file one channel."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, not yet opened."""

    name: str
    images: Mapping[str, ImageFile]  # modality -> file
    label: Path | None
    meaning: LabelMap
    study: DicomStudy | None = None  # of DICOM: its series; `images` and `label` then name their roles

    def parts(self, image: ImageFile) -> tuple[Path, ...]:
        """The files that hold an image: of a DICOM series its slices."""
        return (image.path,) if self.study is None else self.study.files(image.path.name)

    def shown(self, image: ImageFile) -> str:
        """An image's file or series as messages name it."""
        return image.path.name if self.study is None else self.study.name_of(image.path.name)

    @property
    def reference(self) -> str | None:
        """The modality whose brain places the field of view: the first that is there, None without images."""
        return next((modality for modality in MODALITIES if modality in self.images), None)


@dataclass
class Discovery:
    """What a folder holds: its cases by name, and what is wrong with its files, case by case."""

    cases: list[CaseFiles] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    convention: str = ""  # how its files are named
    unused: list[Path] = field(default_factory=list)  # NIfTI files that belong to no case
    notes: list[str] = field(default_factory=list)  # what the user should know of the whole folder

    def add_fault(self, case: str, text: str) -> None:
        self.faults.setdefault(case, []).append(text)

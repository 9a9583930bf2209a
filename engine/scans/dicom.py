"""DICOM studies of a folder as cases: a study is a case, its series are the modalities, its segmentation the mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.manifest import MODALITIES, SEGMENTATION
from ..dicom.extra import require_dicom
from ..errors import InvalidInputError
from ..files import open_regular
from .cases import CaseFiles, Discovery, ImageFile
from .labels import LabelMap, labels_by_name
from .options import ReadOptions

if TYPE_CHECKING:
    from ..dicom.study import DicomStudy

MAX_FILES = 100_000
_MAGIC_AT, _MAGIC = 128, b"DICM"  # PS3.10, 7.1
_DIRECTORY = "DICOMDIR"


def dicom_files(files: Sequence[Path]) -> list[Path]:
    """Those that begin as DICOM files do."""
    return [path for path in files if path.name.upper() != _DIRECTORY and _begins_as_dicom(path)]


def _begins_as_dicom(path: Path) -> bool:
    try:
        with open_regular(path) as handle:
            return handle.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def discover_dicom(data_dir: Path, files: Sequence[Path], modalities: Sequence[str], options: ReadOptions) -> Discovery:
    """The studies among these files, each a case named by its folder, and by a hash of the study where folders share.

    The modalities asked for must be told without doubt and lie in one frame of reference; where none is asked for, the
    mask alone counts, and what can be told of the modalities is kept.

    Raises:
        InvalidInputError: too many files, or none that is an MR image or a segmentation.
        UsageError: the packages of the extra `dicom` are missing.
    """
    require_dicom()
    from ..dicom.faults import DicomFault, reading
    from ..dicom.study import choose, read_studies

    if len(files) > MAX_FILES:
        raise InvalidInputError(f"{data_dir}: holds {len(files)} DICOM files, at most {MAX_FILES} are read")
    with reading():
        studies, faults = read_studies(files)
    if not studies:
        told = f" ({faults[0]})" if faults else ""
        raise InvalidInputError(f"{data_dir}: no MR image and no segmentation among {len(files)} DICOM files{told}")
    found = Discovery(convention="DICOM studies")
    found.notes += [f"left out: {fault}" for fault in faults]
    names = Counter(study.name for study in studies.values())
    for files_of_study in studies.values():
        name = files_of_study.name
        if names[name] > 1:
            name = f"{name}-{files_of_study.code}"
        try:
            with reading():
                study, wrong = choose(files_of_study, modalities, options.series)
            wrong += [*files_of_study.faults(), *study.faults(modalities)]
            case = _case(name, study, options)
        except (DicomFault, InvalidInputError) as error:
            found.faults.setdefault(name, []).extend(getattr(error, "faults", [str(error)]))
            continue
        for text in wrong:
            found.add_fault(name, text)
        found.cases.append(case)
    return found


def _case(name: str, study: DicomStudy, options: ReadOptions) -> CaseFiles:
    images = {modality: ImageFile(Path(modality)) for modality in MODALITIES if modality in study.series}
    meaning = options.labels or LabelMap({0: 0}, "no segmentation")
    if study.segmentation is not None and options.labels is None:
        meaning = labels_by_name(study.segmentation.segments, study.segmentation.name)
    label = None if study.segmentation is None else Path(SEGMENTATION)
    return CaseFiles(name, images, label, meaning, study)

"""From a sampled volume to files and a record: measure, judge, bring to the asked grid, compress, write."""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from ..bundle.manifest import BundleManifest
from ..copies import CopyReference
from ..dicom.about import CaseAbout
from ..folder import Folder
from ..output.case_files import case_files
from ..output.measure import TumourMeasurement, measure_tumour
from ..output.scan_files import scan_files
from ..sampling.insert import InsertedVolume
from ..sampling.insert_case import InsertCase
from ..sampling.sdedit import SourceCase
from ..sampling.types import Volume
from ..telemetry import Telemetry
from .description import RunDescription
from .ledger import QUALITY, FileEntry, SampleRecord
from .owned import run_folder
from .request import Source
from .requests import SampleTask


@dataclass(frozen=True)
class Candidate:
    """A measured volume that may be written."""

    task: SampleTask
    volume: Volume
    measured: TumourMeasurement
    miss: float  # see `miss`; 0 is a perfect hit


FEW_FILES = 8  # are written one after another
AT_ONCE = 8
NO_TUMOUR = "its mask is empty, a tumour was asked for"
COPY = "is closer to a case of --exclude-copies than those are to each other"


class Finisher:
    """Measures and writes the volumes of one run; safe to use from several threads."""

    def __init__(
        self,
        root: Path,
        run: RunDescription,
        bundle: BundleManifest,
        telemetry: Telemetry,
        source: Source | None = None,
        copies: CopyReference | None = None,
    ) -> None:
        self._copies = copies  # cases whose copies are no samples
        self.root, self.run, self.bundle, self.telemetry = root, run, bundle, telemetry
        self.study = source.study if isinstance(source, SourceCase) else None
        self._scan = source if isinstance(source, InsertCase) else None
        self.layout = run.layout()
        self.columns = run.bundle.columns

    @cached_property
    def folder(self) -> Folder:
        """The run's directory, open for the files of this run alone."""
        return run_folder(self.root, self.run)

    def measure(self, task: SampleTask, volume: Volume) -> Candidate | str:
        """Measure the tumour of a volume; its fault where it has one: no tumour, or a copy of a case (`COPY`)."""
        if volume.fault is not None:
            return volume.fault
        with self.telemetry.stage("measure"):
            brain = np.any(volume.image > 0, axis=0)
            measured = measure_tumour(volume.label, self.bundle.grid.spacing_mm, brain)
            if self._scan is not None and not self._scan.inserts:
                return Candidate(task, volume, measured, 0.0)
            if measured.volume_ml == 0:
                return NO_TUMOUR
            if self._copies is not None and self._copies.closeness(volume.image) > 1:
                return COPY
            requested = dict(zip(self.columns, task.requested, strict=True))
            return Candidate(task, volume, measured, miss(requested, measured, self.bundle.grid.fov_mm))

    def accepts(self, candidate: Candidate) -> bool:
        """Whether the tumour is within the run's tolerance; always so without one."""
        return self.run.options.accepts(candidate.miss)

    def write(self, candidate: Candidate) -> SampleRecord:
        """Write the files of a candidate and return its record; what was written is taken back on OSError."""
        with self.telemetry.stage("write"):
            task, files = candidate.task, self._encoded(candidate)
            try:
                write_files(self.folder, files)
            except OSError:
                with suppress(OSError):
                    for name, _ in files:
                        self.folder.remove(name)
                raise
            written = tuple(FileEntry(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in files)
            within = None if self.run.options.reject is None else self.accepts(candidate)
            return SampleRecord(
                task.sample,
                task.id,
                task.attempt,
                self._requested(task),
                task.drawn,
                self._measured(candidate.measured),
                written,
                within,
            )

    def failed(self, task: SampleTask, fault: str) -> SampleRecord:
        """The record of a sample that gave nothing to write."""
        return SampleRecord(task.sample, task.id, task.attempt, self._requested(task), task.drawn, {}, fault=fault)

    def _encoded(self, candidate: Candidate) -> list[tuple[str, bytes]]:
        volume, run, task = candidate.volume, self.run, candidate.task
        about = CaseAbout(
            run.versions["sbldm-engine"],
            run.bundle.id,
            run.recipe,
            run.options.seed,
            task.sample,
            tuple(self._requested(task).items()),
            run.origin,
            self.study,
        )
        if self._scan is not None and isinstance(volume, InsertedVolume):
            images, patch = volume.patch.applied(self._scan.files), volume.patch
            return scan_files(images, self._scan.mask_file, patch.label, self.layout, about, task.sample)
        return case_files(volume.image, volume.label, self.bundle.grid, self.layout, about, run.file_grid())

    def _requested(self, task: SampleTask) -> dict[str, float]:
        return dict(zip(self.columns, task.requested, strict=True))

    def _measured(self, measured: TumourMeasurement) -> dict[str, float | None]:
        values = measured.as_row((*self.columns, *QUALITY))
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_files(folder: Folder, files: list[tuple[str, bytes]]) -> None:
    """Write the files of a sample, by relative path, and make their names lasting.

    Many, such as slices, are written at once: waiting for the disk is what takes time.
    """
    if len(files) <= FEW_FILES:
        for name, data in files:
            folder.write(name, data, sync=False)
    else:
        with ThreadPoolExecutor(AT_ONCE, "file") as pool:
            done = [pool.submit(folder.write, name, data, sync=False) for name, data in files]
        for future in done:
            future.result()
    for name in {PurePosixPath(name).parent: name for name, _ in files}.values():
        folder.sync(name)


def miss(requested: dict[str, float], measured: TumourMeasurement, fov_mm: tuple[float, float, float]) -> float:
    """How far a tumour (there is one) is from its request, 0 for a perfect hit.

    The larger of the relative error of the volume and of the distance between the centres in diameters of the sphere
    that has the requested volume; plus the part of the tumour that lies outside the brain.
    """
    wanted = requested["volume_ml"]
    offsets = [(getattr(measured, axis) - requested[axis]) * side for axis, side in zip("xyz", fov_mm, strict=True)]
    diameter_mm = 10 * (6 * wanted / math.pi) ** (1 / 3)
    return max(abs(measured.volume_ml / wanted - 1), math.hypot(*offsets) / diameter_mm) + 1 - measured.inside_brain

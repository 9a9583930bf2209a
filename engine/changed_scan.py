"""A scan whose lesion was put in or taken out, on its own voxels: looked at, saved, handed to other code."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .output.case_tags import NameBy
from .output.layouts import Layout, Names
from .output.preview import Scan, draw_sheet
from .output.scan_files import Patch, ScanFile, scan_files
from .run.arguments import python_call
from .sample import Sample, about, folder_of, layout_of, write_case
from .sampling.insert_case import InsertCase
from .scans.placement import RasGrid

if TYPE_CHECKING:
    from PIL.Image import Image

ScanLayout = Literal["brats", "nnunet", "bids"]


class ChangedScan:
    """What `Generator.insert` and `Generator.remove` make of a scan; patient data where the scan is a patient's.

    Every voxel whose `changed` is False holds the value that it had. `sample` is the same on the model's grid, with
    what was requested and measured; its `fault` says why there is nothing new to be used, then nothing is changed.
    """

    def __init__(self, sample: Sample, case: InsertCase, patch: Patch | None) -> None:
        self.sample, self._case, self._patch = sample, case, patch

    @property
    def id(self) -> str:
        """The row's, the mask's or the scan's name; of a series with the volume."""
        return self.sample.id

    @property
    def fault(self) -> str | None:
        """None for a good one, else why it must not be used."""
        return self.sample.fault

    @cached_property
    def images(self) -> dict[str, NDArray]:
        """(x, y, z) by modality: the scan's voxels in its own order, type and scale; read-only."""
        return {name: file.array() for name, file in zip(self.sample.modalities, self._files, strict=True)}

    @property
    def label(self) -> NDArray[np.uint8]:
        """(x, y, z): 0 background, 1 NCR, 2 ED, 3 ET."""
        return self._case.own.scan.label() if self._patch is None else self._patch.label

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """(x, y, z): the voxels that were made anew; of the brain, nearer to the lesion than the margin."""
        made = np.zeros(self._case.voxels.shape, np.bool_)
        if self._patch is not None:
            made[self._patch.box] = self._patch.changed
        return made

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4): voxel index -> RAS mm."""
        return np.array(self._case.voxels.affine)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self._case.voxels.shape))
        done = " and ".join(
            word for word, is_done in (("out", self._case.removes), ("in", self._case.inserts)) if is_done
        )
        fault = f", fault={self.fault!r}" if self.fault else ""
        return f"<ChangedScan {self.sample.index} {self.id!r}: {size}, lesion {done}{fault}>"

    @python_call()
    def save(
        self,
        directory: str | os.PathLike[str],
        *,
        layout: ScanLayout = "brats",
        names: Names = "2021",
        name_by: NameBy = "sample",
    ) -> dict[str, Path]:
        """Write its files below `directory` as `augment --insert` writes them, byte by byte; returns their paths.

        Files and the case's folder are for their owner alone. Other arguments and errors are those of `Sample.save`.

        Raises:
            FaultySampleError: it has a fault.
            UsageError: an argument that does not exist, an id that cannot name a file, or another file is in the way.
        """
        self.require_sound()
        folder, made = folder_of(directory), self._layout(layout, names, name_by)
        number = self.sample.index if name_by == "sample" else 0
        write_case(folder, self._encoded(made, number), private=True)
        return {role: folder / made.path(number, role) for role in made.roles}

    def files(self) -> dict[str, bytes]:
        """The `.nii.gz` files by modality, and `seg`: those of `augment --insert` in BraTS layout, byte by byte.

        Raises:
            FaultySampleError: it has a fault.
        """
        self.require_sound()
        layout, number = self._layout("brats", "2021", "sample"), self.sample.index
        contents = dict(self._encoded(layout, number))
        return {role: contents[layout.path(number, role)] for role in layout.roles}

    def picture(self) -> Image:
        """The scan as previews show it, see `Sample.picture`, on its own voxels."""
        grid = RasGrid.of(self.affine, self._case.voxels.shape)
        image = np.stack([grid.turn(image) for image in self.images.values()]).astype(np.float32)
        scan = Scan(image, np.ascontiguousarray(grid.turn(self.label)), grid.spacing_mm)
        return draw_sheet([(self.id, scan)], self._layout("brats", "2021", "sample"), self.sample.origin)

    def require_sound(self) -> None:
        """FaultySampleError where it has a fault."""
        self.sample.require_sound()

    @cached_property
    def _files(self) -> list[ScanFile]:
        files = self._case.files
        return list(files) if self._patch is None else self._patch.applied(files)

    def _layout(self, layout: str, names: str, name_by: str) -> Layout:
        if layout == "dicom":
            raise UsageError("layout 'dicom': a scan's own voxels are kept in NIfTI; allowed: brats, nnunet, bids")
        return layout_of(self.sample, layout, names, name_by)

    def _encoded(self, layout: Layout, number: int) -> list[tuple[str, bytes]]:
        return scan_files(self._files, self._case.mask_file, self.label, layout, about(self.sample), number)

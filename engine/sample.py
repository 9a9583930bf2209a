"""One synthetic case in memory: looked at, saved, handed to training code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .bundle.load import Bundle
from .bundle.manifest import INT16_SCALE, Grid
from .dicom.about import CaseAbout
from .dicom.extra import require_dicom
from .errors import SbldmError, UsageError
from .files import make_directory, write_atomic
from .output.case_files import GRIDS, GridName, case_files, grid_of_files, slices_of
from .output.case_tags import ALLOWED, NAME_BY, IdTags, NameBy, NumberTags, is_tag
from .output.layouts import Layout, LayoutName, Names, make_layout
from .output.measure import TumourMeasurement, measure_tumour
from .portable import has_display
from .run.arguments import python_call
from .run.description import source_digest
from .run.options import RunOptions
from .run.request import Source
from .run.requests import SampleTask
from .run.writer import NO_TUMOUR, miss
from .sampling.insert_case import InsertCase
from .sampling.types import Volume
from .versions import installed

if TYPE_CHECKING:
    from PIL.Image import Image

Item = dict[str, Any]
Faulty = Literal["raise", "skip", "keep"]
FAULTY: tuple[Faulty, ...] = get_args(Faulty)


class FaultySampleError(SbldmError):
    """A sample must not be used: the model made no brain, or numbers that are none."""

    exit_code = 5


@dataclass(frozen=True, repr=False)
class Sample:
    """One synthetic case.

    `image` is (modality, x, y, z) in RAS+, 0..1000 with background 0; `label` (x, y, z) with 0 background, 1 NCR, 2 ED,
    3 ET; `affine` (4, 4) turns voxel indices to millimetres. `requested` holds the complete conditions that the model
    was given, `measured` what came out. `attempt` is the draw that was kept, 0 without `reject`. `fault` is None for a
    good sample, else why it must not be used. `origin` is empty for noise
    alone; a sample `from a real case` (`augment`) or of a `given mask` is to be protected as that is. `bundle_id` and
    `recipe` (a hash of the model and of how it was sampled) are what DICOM files tell and take their UIDs from.
    """

    index: int
    id: str
    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    requested: dict[str, float]
    measured: TumourMeasurement
    attempt: int
    fault: str | None
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    seed: int
    origin: str = ""
    bundle_id: str = ""
    recipe: str = ""

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.label.shape))
        fault = f", fault={self.fault!r}" if self.fault else ""
        tumour = f"{self.measured.volume_ml:.1f} ml"
        return f"<Sample {self.index} {self.id!r}: {', '.join(self.modalities)}, {size}, tumour {tumour}{fault}>"

    @python_call()
    def save(
        self,
        directory: str | os.PathLike[str],
        *,
        layout: LayoutName = "brats",
        names: Names = "2021",
        name_by: NameBy = "sample",
        grid: GridName = "native",
        rtstruct: bool = False,
    ) -> dict[str, Path]:
        """Write the case below `directory` as `generate` writes it, byte by byte; returns the path of each file.

        Of a modality in DICOM it is the folder of the series.

        The folder is made where it is missing. Files that are there stay, where they hold the same bytes. What
        `generate` writes of the whole data set (dataset.json and its like) is not written.

        Args:
            directory: where the case is written.
            layout: `brats`, `nnunet`, `bids` or `dicom`.
            names: BraTS file names of `2021` or `2023`.
            name_by: the case is called by its number (`sample`) or by its `id`.
            grid: `native`, or `brats` for 240x240x155 voxels of 1 mm.
            rtstruct: of the layout `dicom`: the mask as contours, too.

        Raises:
            FaultySampleError: the sample has a fault.
            UsageError: an argument that does not exist, an id that cannot name a file, or another file is in the way.
        """
        self.require_sound()
        folder = folder_of(directory)
        if grid not in GRIDS:
            raise UsageError(f"grid {grid!r}: allowed: {', '.join(GRIDS)}")
        slices = slices_of(grid_of_files(grid), self.grid)
        made = layout_of(self, layout, names, name_by, slices, rtstruct)
        number = self.index if name_by == "sample" else 0
        files = case_files(self.image, self.label, self.grid, made, about(self), grid_of_files(grid), number)
        write_case(folder, files, private=bool(self.origin))
        return {role: folder / made.path(number, role) for role in made.roles}

    def files(self) -> dict[str, bytes]:
        """The files of the case by modality, and `seg`: those of `generate` in BraTS layout, byte by byte.

        Raises:
            FaultySampleError: the sample has a fault.
        """
        self.require_sound()
        layout = make_layout("brats", self.modalities, self.labels)
        contents = dict(case_files(self.image, self.label, self.grid, layout, about(self), None))
        return {role: contents[layout.path(self.index, role)] for role in layout.roles}

    @property
    def grid(self) -> Grid:
        """Voxels and their size in millimetres."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return Grid(self.label.shape, tuple(float(side) for side in spacing))  # type: ignore[arg-type]

    def picture(self) -> Image:
        """The case as previews show it: each modality, the tissues, coronal and sagittal, R L A P S I at the edges."""
        from .output.preview import Scan, draw_sheet

        asked, got = self.requested.get("volume_ml"), self.measured.volume_ml
        told = "" if asked is None else f"    tumour {got:.1f} ml, asked {asked:.1f} ml"
        fault = "" if self.fault is None else f"    FAULTY: {self.fault}"
        own = f" ({self.id})" if self.id != str(self.index) else ""
        scan = Scan(self.image.astype(np.float32), self.label, self.grid.spacing_mm)
        layout = make_layout("brats", self.modalities, self.labels)
        return draw_sheet([(f"sample {self.index}{own}{told}{fault}", scan)], layout, self.origin)

    def show(self) -> None:
        """Show `picture` in the notebook that runs this, elsewhere in the system's viewer of pictures.

        Raises:
            UsageError: there is neither a notebook nor a display.
        """
        ipython: Any = sys.modules.get("IPython")
        if ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None:
            from IPython.display import display  # type: ignore[import-not-found]

            display(self.picture())
        elif has_display():
            self.picture().show(title=f"sample {self.index}")
        else:
            raise UsageError(f'no display here; write it to a file: sample.picture().save("sample-{self.index}.png")')

    def _repr_png_(self) -> bytes:
        """What a notebook shows of a sample that is the value of a cell."""
        data = BytesIO()
        self.picture().save(data, "PNG")
        return data.getvalue()

    def to_item(self) -> Item:
        """`{"image", "label", "affine", "index", "requested"}`, the arrays of training code.

        image (modality, x, y, z) float32 0..1, label (1, x, y, z) uint8, affine (4, 4).

        Raises:
            FaultySampleError: the sample has a fault.
        """
        self.require_sound()
        return {
            "image": self.image.astype(np.float32) / np.float32(INT16_SCALE),
            "label": self.label[None],
            "affine": self.affine,
            "index": self.index,
            "requested": self.requested,
        }

    def to_monai(self) -> Item:
        """`to_item` with image and label as MONAI MetaTensors; UsageError without MONAI (extra `train`)."""
        return monai_item(self.to_item())

    def to_torchio(self) -> Any:
        """A TorchIO Subject of a ScalarImage `image` and a LabelMap `label`; UsageError without TorchIO."""
        return torchio_subject(self.to_item())

    def require_sound(self) -> None:
        """FaultySampleError where the sample has a fault."""
        if self.fault is not None:
            raise FaultySampleError(
                f"sample {self.index}: {self.fault}; it must not be used. `generate` and `StreamDataset` leave such "
                'samples out by faulty="skip"'
            )


def monai_item(item: Item) -> Item:
    """An item whose image and label are MONAI MetaTensors with their affine; UsageError without MONAI."""
    try:
        from monai.data.meta_tensor import MetaTensor
    except ImportError as error:
        raise UsageError('MONAI is not installed: pip install "sbldm-engine[train]"') from error
    return {**item, **{key: MetaTensor(item[key], affine=item["affine"]) for key in ("image", "label")}}


def torchio_subject(item: Item) -> Any:
    """An item as a TorchIO Subject of a ScalarImage and a LabelMap; UsageError without TorchIO."""
    try:
        import torch
        import torchio
    except ImportError as error:
        raise UsageError("TorchIO is not installed: pip install torchio") from error
    return torchio.Subject(
        image=torchio.ScalarImage(tensor=torch.from_numpy(item["image"]), affine=item["affine"]),
        label=torchio.LabelMap(tensor=torch.from_numpy(np.ascontiguousarray(item["label"])), affine=item["affine"]),
        index=item["index"],
    )


def finisher(
    bundle: Bundle, options: RunOptions, source: Source | None
) -> Callable[[SampleTask, Volume], tuple[Sample, float | None]]:
    """What makes samples of a run's volumes and tells how far each is from its request, None for a faulty one."""
    manifest, digest = bundle.manifest, source_digest(source)
    grid, columns = manifest.grid, [column.name for column in manifest.condition_columns]
    has_tumour = not isinstance(source, InsertCase) or source.inserts
    origin, recipe = "" if digest is None else digest.origin, options.recipe(bundle.sha256, digest)

    def finish(task: SampleTask, volume: Volume) -> tuple[Sample, float | None]:
        measured = measure_tumour(volume.label, grid.spacing_mm, np.any(volume.image > 0, axis=0))
        requested = dict(zip(columns, task.requested, strict=True))
        fault = volume.fault or (NO_TUMOUR if has_tumour and measured.volume_ml == 0 else None)
        sample = Sample(
            task.sample, task.id, volume.image, volume.label, grid.affine, requested, measured, task.attempt, fault,
            manifest.modalities, manifest.labels, options.seed, origin, manifest.id, recipe,
        )  # fmt: skip
        if fault is not None:
            return sample, None
        return sample, miss(requested, measured, grid.fov_mm) if has_tumour else 0.0

    return finish


def about(sample: Sample) -> CaseAbout:
    """Where a sample comes from, for its files."""
    version = installed("sbldm-engine") or "unknown"
    requested = tuple(sample.requested.items())
    return CaseAbout(version, sample.bundle_id, sample.recipe, sample.seed, sample.index, requested, sample.origin)


def layout_of(sample: Sample, layout: str, names: str, name_by: str, slices: int = 1, rtstruct: bool = False) -> Layout:
    """The layout of a sample's files; UsageError for one that does not exist, or an id that cannot name a file."""
    if name_by not in NAME_BY:
        raise UsageError(f"name_by {name_by!r}: allowed: {', '.join(NAME_BY)}")
    if name_by == "id" and not (sample.id.isalnum() if layout == "bids" else is_tag(sample.id)):
        allowed = "letters and digits alone, as a BIDS subject is named" if layout == "bids" else ALLOWED
        raise UsageError(f"id {sample.id!r}: must be {allowed}")
    tags = NumberTags() if name_by == "sample" else IdTags((sample.id,))
    if layout == "dicom":
        require_dicom()
    return make_layout(layout, sample.modalities, sample.labels, names, tags, slices, rtstruct)


def write_case(folder: Path, files: Sequence[tuple[str, bytes]], *, private: bool) -> None:
    """Write files below a folder by their relative paths; `private` ones are for their owner alone.

    Raises:
        UsageError: another file is in the way, or they cannot be written.
    """
    try:
        for name, data in files:
            if (folder / name).exists() and (folder / name).read_bytes() != data:
                raise UsageError(f"{folder / name}: is there with other content; give another directory")
        for name, data in files:
            make_directory((folder / name).parent, 0o700 if private else 0o777)
            write_atomic(folder / name, data, private=private)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); give another directory") from error


def folder_of(directory: object) -> Path:
    """A directory that a caller named; UsageError where it is no path."""
    if not isinstance(directory, str | os.PathLike) or not isinstance(os.fspath(directory), str):
        raise UsageError(f"directory {directory!r}: must be a path")
    if not os.fspath(directory) or "\0" in os.fspath(directory):
        raise UsageError(f"directory {directory!r}: is no path; give a directory, '.' for the one you are in")
    return Path(directory)


def require_faulty(value: object, allowed: tuple[Faulty, ...] = FAULTY) -> None:
    """UsageError where an argument `faulty` is none of `allowed`."""
    if value not in allowed:
        raise UsageError(f"faulty {value!r}: allowed: {', '.join(allowed)}")

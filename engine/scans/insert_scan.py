"""A scan, with a mask or healthy, as `augment --insert` and `--remove` start from it; and the masks given for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import INT16_SCALE
from ..conditions.columns import ConditionRows, Conditions, id_of_use
from ..conditions.faults import Faults
from ..errors import InvalidInputError, UsageError
from ..output.measure import measure_tumour
from ..output.scan_files import ScanFile
from ..output.scan_voxels import ScanVoxels
from ..sampling.insert_case import InsertCase, Lesion, PackedLabel, check_insert, check_volumes
from .bounded import Inflating, UnusableFileError, read_regular
from .case import LoadedCase, file_name
from .cases import CaseFiles
from .discover import discover_cases
from .header import HeaderFault, ScanHeader, corners
from .measure import of_each_case
from .one_case import faults_of, one_case
from .options import ReadOptions
from .placement import Cloud, RasGrid, place
from .plausible import judge
from .prepare import LABELS, LEVELS, prepare_case
from .read import AFFINE_TOLERANCE_MM, CaseError, Mask, RawCase, decode, our_labels
from .resample import GridSampler

INSIDE = 0.95  # share of a given mask that must lie in the scan's brain
_MOST_BYTES = 2**31  # of a file, decompressed


@dataclass(frozen=True)
class InsertWishes:
    """What is to be done with a scan, as it was typed."""

    inserts: bool
    removes: bool
    masks: Path | None  # folder of label files on the scan's voxels
    volumes_ml: tuple[float, ...]
    margin_mm: float
    has_mass_effect: bool

    def require(self) -> None:
        """UsageError for wishes that do not go together."""
        if self.masks is not None and not self.inserts:
            raise UsageError("--masks: belongs to --insert")
        if self.has_mass_effect and not self.inserts:
            raise UsageError("--mass-effect: belongs to --insert")
        if self.volumes_ml:
            check_volumes(self.volumes_ml)
            if not self.inserts:
                raise UsageError("--volumes: belongs to --insert")


@dataclass(frozen=True)
class _Scan:
    """A scan that was read."""

    files: CaseFiles
    plain: tuple[ScanFile, ...]
    mask_file: ScanFile
    loaded: LoadedCase
    sampler: GridSampler
    label: NDArray[np.uint8]  # (x, y, z) in the order of the files


def read_insert(
    folder: Path, bundle: Bundle, wishes: InsertWishes, rows: ConditionRows | None, options: ReadOptions
) -> tuple[InsertCase, tuple[str, ...]]:
    """The one scan of a folder and what is to be done with it, and what should be known of it.

    Args:
        folder: of the scan; its mask may be missing, or empty, where nothing is removed.
        bundle: of the form mask-first.
        wishes: what is to be done.
        rows: tumours that are asked for, as they were read; None where none are.
        options: how files are read.

    Raises:
        UsageError: wishes that do not go together, a bundle of another form.
        InvalidInputError: no scan, several, a broken one, masks or rows that do not fit it; every fault is named.
    """
    wishes.require()
    if wishes.masks is not None and rows is not None:
        raise UsageError("--masks: go without --conditions, or edit them first by generate --masks or masks vary")
    if not wishes.inserts and rows is not None:
        raise UsageError("--conditions: belong to --insert")
    scan, notes = _read(folder, bundle, options, healthy=not wishes.removes)
    manifest, loaded = bundle.manifest, scan.loaded
    grid, columns = manifest.grid, [column.name for column in manifest.condition_columns]
    prepared = prepare_case(loaded, grid)
    image = np.rint(prepared.image.astype(np.float32) * (INT16_SCALE / LEVELS)).astype(np.int16)
    own = Lesion(PackedLabel.of(prepared.label), PackedLabel.of(scan.label))
    centre = loaded.placement.centre_mm if loaded.placement.is_on_brain else loaded.grid.centre_mm
    voxels = ScanVoxels.of(loaded.raw.label.shape, loaded.raw.affine, np.asarray(centre))
    case = InsertCase(
        scan.plain, scan.mask_file, prepared.scales, voxels, image, own, wishes.removes, wishes.inserts, (),
        wishes.volumes_ml, (), None, wishes.margin_mm, wishes.has_mass_effect,
    )  # fmt: skip
    check_insert(case, bundle)
    if wishes.masks is not None:
        names, given = _given(wishes.masks, scan, options)
        measured = [measure_tumour(one.grid.label(), grid.spacing_mm).vector(columns) for one in given]
        case = replace(case, given=tuple(given), conditions=_table(columns, names, measured, str(wishes.masks)))
    elif not wishes.inserts:
        row = measure_tumour(prepared.label, grid.spacing_mm).vector(columns)
        case = replace(case, conditions=_table(columns, [scan.files.name], [row], str(folder)))
    elif rows is not None:
        _require_places(rows, columns, case)
    return case, (*notes, *loaded.warnings)


def with_series(
    case: InsertCase, bundle: Bundle, rows: ConditionRows | None, count: int | None, seed: int
) -> InsertCase:
    """The case with a complete row for each volume of each tumour: what a row leaves open is drawn once a series.

    Surface and box follow the volume as those of bodies of one shape.

    Raises:
        InvalidInputError: rows with a volume or a size of their own.
        UsageError: neither rows nor a count.
    """
    columns, volumes = [column.name for column in bundle.manifest.condition_columns], case.volumes_ml
    if not volumes:
        return case
    if case.conditions is not None:
        names = list(case.conditions.ids)
        largest = [case.conditions.values[k].copy() for k in range(len(names))]
        base = [float(row[columns.index("volume_ml")]) for row in largest]
        series: tuple[tuple[float, ...], ...] = ()
    else:
        names, largest = _completed(bundle, rows, columns, volumes[-1], count, seed)
        base = [volumes[-1]] * len(largest)
        series = tuple(tuple(float(value) for value in row) for row in largest)
    table, ids = list[NDArray[np.float64]](), list[str]()
    for name, row, own in zip(names, largest, base, strict=True):
        for volume in volumes:
            table.append(_scaled(row, columns, volume / own))
            ids.append(f"{name}-{volume:g}ml")
    source = str(case.conditions.source if case.conditions is not None else rows.source if rows else "--volumes")
    return replace(case, series=series, conditions=_table(columns, ids, table, source))


def _completed(
    bundle: Bundle, rows: ConditionRows | None, columns: list[str], largest_ml: float, count: int | None, seed: int
) -> tuple[list[str], list[NDArray[np.float64]]]:
    if rows is None:
        if count is None:
            raise UsageError("give --count N, --conditions FILE or both")
        given = [("", np.full(len(columns), np.nan)) for _ in range(count)]
    else:
        given = [rows.at(row) for row in range(len(rows))]
        faults = Faults(rows.source)
        for number, (_, row) in enumerate(given):
            for name in ("volume_ml", "surface_cm2", "w", "h", "d"):
                if name in columns and not np.isnan(row[columns.index(name)]):
                    value = f"{row[columns.index(name)]:g}"
                    faults.add(rows.line(number), name, value, "empty, where --volumes gives the sizes of a series")
        faults.raise_if_any()
    names, made = list[str](), list[NDArray[np.float64]]()
    for number, (name, row) in enumerate(given):
        asked = row.copy()
        asked[columns.index("volume_ml")] = largest_ml
        made.append(bundle.manifest.cohort.complete_sample(asked, seed, number))
        names.append(name or id_of_use("", 0, number, rows.has_id if rows is not None else lambda _: False))
    return names, made


def _scaled(row: NDArray[np.float64], columns: Sequence[str], factor: float) -> NDArray[np.float64]:
    made = row.copy()
    for name, power in (("volume_ml", 1.0), ("surface_cm2", 2 / 3), ("w", 1 / 3), ("h", 1 / 3), ("d", 1 / 3)):
        if name in columns:
            made[columns.index(name)] *= factor**power
    return made


def _table(columns: Sequence[str], ids: Sequence[str], rows: Sequence[NDArray[np.float64]], source: str) -> Conditions:
    return Conditions(tuple(columns), tuple(ids), np.array(rows), tuple(range(1, len(ids) + 1)), source)


def _read(folder: Path, bundle: Bundle, options: ReadOptions, *, healthy: bool) -> tuple[_Scan, tuple[str, ...]]:
    files, notes = one_case(folder, bundle.manifest.modalities, options, "scan", needs_mask=not healthy)
    with faults_of(folder):
        return _decoded(files, bundle, options, healthy=healthy), notes


def _decoded(files: CaseFiles, bundle: Bundle, options: ReadOptions, *, healthy: bool) -> _Scan:
    modalities, view = bundle.manifest.modalities, bundle.manifest.grid.fov_mm
    paths = {modality: files.images[modality].path for modality in modalities}
    if any(files.images[modality].channel is not None for modality in modalities):
        raise CaseError(["its modalities are channels of one file; --insert and --remove need a file a modality"])
    read, faults = dict[str, tuple[ScanFile, ScanHeader, NDArray]](), list[str]()
    wanted = {**paths, **({"seg": files.label} if files.label is not None else {})}
    for role, path in wanted.items():
        try:
            read[role] = _file(path, options)
        except (UnusableFileError, HeaderFault) as error:
            faults += [f"{path.name}: {text}" for text in getattr(error, "faults", [str(error)])]
    if faults:
        raise CaseError(faults)
    first = read[modalities[0]][1]
    against = paths[modalities[0]].name
    faults = [text for role in read if (text := _apart(wanted[role].name, read[role][1], against, first))]
    if faults:
        raise CaseError(faults)
    images = {modality: read[modality][2] for modality in modalities}
    judgement = judge(images, {modality: file_name(files, modality) for modality in modalities})
    mask = _mask(files, read, first, options, healthy=healthy)
    grid = RasGrid.of(first.affine, first.shape)
    brain, label = grid.turn(judgement.brain), grid.turn(mask.label)
    placement = place(grid, grid.turn(images[modalities[0]] != 0), Cloud(grid, label > 0), view)
    if faults := [*judgement.faults, *placement.faults(view)]:
        raise CaseError(faults)
    loaded = LoadedCase(
        RawCase(images, mask, first), grid, [grid.turn(image) for image in images.values()], label, brain,
        [judgement.intensities[modality] for modality in modalities], placement,
        (*mask.warnings, *placement.warnings(view)),
    )  # fmt: skip
    manifest = bundle.manifest
    centre = placement.centre_mm if placement.is_on_brain else None
    sampler = GridSampler(first.shape, first.affine, manifest.grid.shape, manifest.grid.spacing_mm, centre)
    template = read["seg" if "seg" in read else modalities[0]][0]
    return _Scan(files, tuple(read[m][0] for m in modalities), template, loaded, sampler, mask.label)


def _file(path: Path, options: ReadOptions) -> tuple[ScanFile, ScanHeader, NDArray]:
    plain = Inflating(read_regular(path)).take(_MOST_BYTES)
    header, array = decode(plain, options)
    if len(header.shape) != 3:
        raise UnusableFileError("must be one 3-dimensional volume")
    x, y, z = header.shape
    file = ScanFile(plain, (x, y, z), header.dtype.str, header.offset, header.slope, header.intercept)
    return file, header, array


def _apart(name: str, header: ScanHeader, first_name: str, first: ScanHeader) -> str | None:
    """Why two files are not on the same voxels in the same order; None where they are."""
    if header.shape != first.shape:
        return f"{name} has {header.shape} voxels, {first_name} {first.shape}; bring them to one grid"
    apart = np.abs(corners(header.affine, header.shape) - corners(first.affine, first.shape)).max()
    if apart <= AFFINE_TOLERANCE_MM:
        return None
    if not np.array_equal(io_orientation(header.affine), io_orientation(first.affine)):
        return f"{name} has its axes in another order than {first_name} ({header.codes}, {first.codes})"
    return f"{name} lies {apart:.3g} mm away from {first_name}; bring them to one grid"


def _mask(
    files: CaseFiles, read: dict[str, tuple[ScanFile, ScanHeader, NDArray]], first: ScanHeader, options: ReadOptions,
    *, healthy: bool,
) -> Mask:  # fmt: skip
    """The scan's own mask; an empty one where it has none and needs none."""
    if files.label is not None and (not healthy or read["seg"][2].any()):
        if files.meaning.is_binary:
            raise CaseError([f"{files.label.name}: has one label for the whole tumour; NCR, ED and ET are needed"])
        return our_labels(read["seg"][2], files.label.name, files.meaning, options, first.voxel_ml)
    nothing = slice(0, 1)
    return Mask(np.zeros(first.shape, np.uint8), (), (0, 0, 0), 0, (nothing, nothing, nothing), ())


def _given(folder: Path, scan: _Scan, options: ReadOptions) -> tuple[list[str], list[Lesion]]:
    """The masks of a folder, all on the scan's voxels."""
    found = discover_cases(folder, (), options)
    masks, faults = of_each_case(found, lambda case: _lesion(case, scan, options), lambda done, total: None)
    if faults:
        told = [f"{folder}: {name}: {text}" for name, texts in sorted(faults.items()) for text in texts]
        raise InvalidInputError("\n".join(told))
    return list(masks), list(masks.values())


def _lesion(case: CaseFiles, scan: _Scan, options: ReadOptions) -> Lesion:
    assert case.label is not None
    name, loaded = case.label.name, scan.loaded
    try:
        _, header, array = _file(case.label, options)
    except (UnusableFileError, HeaderFault) as error:
        raise CaseError([f"{name}: {text}" for text in getattr(error, "faults", [str(error)])]) from error
    if case.meaning.is_binary:
        raise CaseError([f"{name}: has one label for the whole tumour; the model's masks tell NCR, ED and ET apart"])
    if apart := _apart(name, header, "the scan", loaded.raw.header):
        raise CaseError([f"{apart}; a mask to be inserted must lie on the scan's voxels"])
    label = our_labels(array, name, case.meaning, options, header.voxel_ml).label
    turned, faults = loaded.grid.turn(label), list[str]()
    outside = 1 - np.count_nonzero(loaded.brain & (turned > 0)) / np.count_nonzero(turned)
    if outside > 1 - INSIDE:
        faults.append(f"{name}: {100 * outside:.3g} % of the mask lies outside the scan's brain, at most "
                      f"{100 * (1 - INSIDE):.3g} % may")  # fmt: skip
    if np.count_nonzero(label[1:-1, 1:-1, 1:-1]) < np.count_nonzero(label):
        faults.append(f"{name}: the mask touches the border of the scan; at least one voxel must lie between")
    grid = scan.sampler.label(turned, LABELS)
    held = np.count_nonzero(grid) * float(np.prod(scan.sampler.spacing_mm)) / (1000 * header.voxel_ml)
    if not grid.any() or held < 0.5 * np.count_nonzero(label):
        faults.append(f"{name}: the mask is too small for the model's voxels, or outside its field of view")
    if faults:
        raise CaseError(faults)
    return Lesion(PackedLabel.of(grid), PackedLabel.of(label))


def _require_places(rows: ConditionRows, columns: Sequence[str], case: InsertCase) -> None:
    """InvalidInputError for rows whose centre is given and lies outside the scan's brain."""
    faults, brain = Faults(rows.source), np.asarray(case.image.any(axis=0))
    at = [columns.index(name) for name in "xyz"]
    for row in range(len(rows)):
        place_of = rows.at(row)[1][at]
        if np.isnan(place_of).any():
            continue
        voxel = np.clip((place_of * brain.shape).astype(int), 0, np.array(brain.shape) - 1)
        if not brain[tuple(voxel)]:
            shown = ", ".join(f"{value:g}" for value in place_of)
            faults.add(rows.line(row), "x, y, z", shown, "a place inside the scan's brain")
    faults.raise_if_any()

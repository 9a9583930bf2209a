"""A cohort on the grid: prepared once into memory-mapped files, read slice by slice afterwards."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from ...engine.conditions.columns import COLUMNS, SHARE_COLUMNS
from ...engine.errors import InvalidInputError
from ...engine.files import write_atomic
from ...engine.output.measure import measure_tumour
from ...engine.output.nifti import SYNTHETIC
from ...engine.processes import sharing_workers
from ...engine.scans import plausible
from ...engine.scans.case import load_case, modalities_to_read
from ...engine.scans.cases import CaseFiles
from ...engine.scans.discover import discover_cases
from ...engine.scans.measure import one_label_note
from ...engine.scans.options import ReadOptions
from ...engine.scans.prepare import prepare_case
from ...engine.scans.read import CaseError, Contents, digest, read_contents
from ..phantom import PHANTOM_DESCRIPTION
from .known import KnownCases
from .shell import without_faint_shell

CACHE_VERSION = 5  # raise it when the same input gives other stored values
MAX_FAULTS_SHOWN = 20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Progress = Callable[[int, int], None]  # cases done, cases in all
Source = Literal["real", "phantom", "sample"]  # a scan, or what this program made; by what the mask's file says

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Share(NamedTuple):
    """Part `number` of `of` parts of some work."""

    number: int
    of: int

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `of`-th item."""
        return items[self.number :: self.of]


WHOLE = Share(0, 1)


@dataclass(frozen=True)
class CachedCase:
    """One case of the cache: its array file, and what its JSON says."""

    name: str
    path: Path  # .npy, uint8 (z, modality + 1, x, y): the images 0..255, then the label
    scales: tuple[float, ...]  # raw value that became +1, one a modality
    conditions: tuple[float, ...]  # COLUMNS, measured on the grid; NaN for shares that nobody knows
    label_values: tuple[int, ...] = ()  # of the mask's file
    warnings: tuple[str, ...] = ()
    source: Source = "real"
    copy: int = 0  # 0 the case itself, else which of its varied copies


@dataclass(frozen=True)
class Cohort:
    """Prepared cases; holds paths and numbers only, so memory does not grow with the arrays."""

    grid: Grid
    modalities: tuple[str, ...]
    entries: tuple[CachedCase, ...]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)  # case -> its faults, with `skip_invalid`
    convention: str = ""  # how its files are named

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(entry.name for entry in self.entries)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where each case comes from, in the order of the cases: a scan, the phantom generator, or a model of ours."""
        return tuple(entry.source for entry in self.entries)

    @property
    def originals(self) -> Cohort:
        """The same cohort without varied copies."""
        return self.subset([case for case, entry in enumerate(self.entries) if not entry.copy])

    @property
    def conditions(self) -> NDArray[np.float64]:
        """(cases, 12): `COLUMNS` of every case in their own units."""
        return np.array([entry.conditions for entry in self.entries], np.float64).reshape(-1, len(COLUMNS))

    def slices(self, case: int | str) -> NDArray[np.uint8]:
        """Memory-mapped images (z, modality, x, y), uint8: 0 background, 1..255; `prepare.to_unit` gives [-1, 1]."""
        return self._open(case)[:, : len(self.modalities)]

    def label(self, case: int | str) -> NDArray[np.uint8]:
        """Memory-mapped labels (z, x, y), uint8: 0 background, 1 NCR, 2 ED, 3 ET."""
        return self._open(case)[:, len(self.modalities)]

    def subset(self, cases: Sequence[int | str]) -> Cohort:
        """The same cohort with these cases only, in this order."""
        return Cohort(self.grid, self.modalities, tuple(self._entry(case) for case in cases))

    def _entry(self, case: int | str) -> CachedCase:
        if isinstance(case, str):
            for entry in self.entries:
                if entry.name == case:
                    return entry
            raise KeyError(f"no case {case} in this cohort")
        return self.entries[case]

    def _open(self, case: int | str) -> NDArray[np.uint8]:
        return np.load(self._entry(case).path, mmap_mode="r")


def prepare_cohort(
    data_dir: Path,
    cache_dir: Path,
    grid: Grid = DEFAULT_GRID,
    *,
    modalities: Sequence[str] = MODALITIES,
    workers: int = 1,
    skip_invalid: bool = False,
    progress: Progress | None = None,
    options: ReadOptions | None = None,
    share: Share = WHOLE,
) -> Cohort:
    """Bring every case below `data_dir` to the grid, once; what the cache holds for the same bytes is not made again.

    The key of a case is the sha256 of its files and of the settings, so a changed file costs only its own case and
    several grids can share `cache_dir`.  Files that are unchanged by what the file system says are not read again
    (known.py).  `workers` processes share the cases.  Raises `InvalidInputError` that lists
    every fault of every case; with `skip_invalid` those cases are left out with a warning.  A `share` of the cases is
    only made: nothing is said of their faults, which are found again when the whole is asked for.
    """
    chosen, options = tuple(modalities), options or ReadOptions()
    found = discover_cases(Path(data_dir), chosen, options)
    log.info("%s: read as %s", data_dir, found.convention)
    for note in found.notes:
        log.warning("%s: %s", data_dir, note)
    sound = share.part([files for files in found.cases if files.name not in found.faults])
    cache_dir = Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    work = partial(_cached_case, cache_dir=cache_dir, grid=grid, modalities=chosen, options=options)
    known = KnownCases(cache_dir / f"known-{settings_digest(grid, chosen)}", chosen, options, share.number)
    entries = [entry for files in sound if (entry := _unchanged_case(files, known, cache_dir)) is not None]
    prepared = {entry.name for entry in entries}
    unread = [files for files in sound if files.name not in prepared]
    faults = dict(found.faults)
    results = zip(unread, in_processes(work, unread, workers), strict=True)
    for done, (files, result) in enumerate(results, start=len(entries) + 1):
        if isinstance(result, CachedCase):
            entries.append(result)
            known.add(files, result.path.stem)
        else:
            faults[files.name] = result
        if progress is not None:
            progress(done, len(sound))
    if unread:
        known.save()
    if share != WHOLE:
        return Cohort(grid, chosen, tuple(entries), faults, found.convention)
    report_faults(Path(data_dir), faults, skip_invalid=skip_invalid)
    if not entries:
        raise InvalidInputError(f"{data_dir}: no sound case is left of {len(found.cases)}")
    entries.sort(key=lambda entry: entry.name)
    for entry in entries:
        for warning in entry.warnings:
            log.warning("%s: %s", entry.name, warning)
    told = {files.name for files in found.cases if files.meaning.is_told}
    note = None if any(e.name in told for e in entries) else one_label_note([e.label_values for e in entries])
    if note is not None:
        log.warning("%s: %s", data_dir, note)
    unknown = {files.name for files in found.cases if files.meaning.is_binary or note is not None}
    entries = [_without_shares(entry) if entry.name in unknown else entry for entry in entries]
    return Cohort(grid, chosen, tuple(entries), faults, found.convention)


def _without_shares(entry: CachedCase) -> CachedCase:
    known = [np.nan if name in SHARE_COLUMNS else v for name, v in zip(COLUMNS, entry.conditions, strict=True)]
    return replace(entry, conditions=tuple(known))


def report_faults(data_dir: Path, faults: dict[str, list[str]], *, skip_invalid: bool) -> None:
    """Raise one `InvalidInputError` for all faults, or log a warning a case when they are to be skipped."""
    if skip_invalid:
        for name, texts in sorted(faults.items()):
            log.warning("%s: left out: %s", name, "; ".join(texts))
        return
    if not faults:
        return
    lines = [f"  {name}: {text}" for name, texts in sorted(faults.items()) for text in texts]
    more = len(lines) - MAX_FAULTS_SHOWN
    if more > 0:
        lines = [*lines[:MAX_FAULTS_SHOWN], f"  and {more} more faults"]
    raise InvalidInputError(
        f"{data_dir}: {len(faults)} case{'s' if len(faults) > 1 else ''} cannot be used\n" + "\n".join(lines)
        + "\nCorrect or remove them, or leave them out with --skip-invalid."
    )  # fmt: skip


def in_processes(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`work` of every item, in order, by `workers` processes of one thread each; here where one is enough."""
    workers = sharing_workers(min(workers, len(items)))
    if workers <= 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        )
        try:
            yield from pool.map(work, items, chunksize=1)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Worker processes started inside use one thread of linear algebra each."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def settings_digest(grid: Grid, modalities: Sequence[str]) -> str:
    """What the stored values depend on beside the files, as a short hash."""
    settings = {
        "version": CACHE_VERSION,
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing_mm),
        "modalities": list(modalities),
        "percentile": plausible.SCALE_PERCENTILE,
        "headroom": plausible.SCALE_HEADROOM,
        "limit": plausible.SCALE_LIMIT,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _unchanged_case(files: CaseFiles, known: KnownCases, cache_dir: Path) -> CachedCase | None:
    """The prepared case of files that are as they were when it was made."""
    stem = known.stem(files)
    return None if stem is None else load_entry(files.name, cache_dir / stem)


def _cached_case(
    files: CaseFiles, *, cache_dir: Path, grid: Grid, modalities: tuple[str, ...], options: ReadOptions
) -> CachedCase | list[str]:
    """The case from the cache, made if it is not there; its faults if it cannot be used."""
    try:
        wanted = modalities_to_read(files, modalities)
        contents = read_contents(files, wanted)
        inputs = digest(files, wanted, contents, options)
        prefix = f"{files.name}.{settings_digest(grid, modalities)}."
        stem = cache_dir / f"{prefix}{inputs[:20]}"
        cached = load_entry(files.name, stem)
        if cached is None:
            cached = make_case(files, modalities, contents, grid, stem, options)
            _remove_outdated(cache_dir, prefix, stem.name, _file(files))
    except CaseError as error:
        return error.faults
    return cached


def make_case(
    files: CaseFiles, modalities: Sequence[str], contents: Contents, grid: Grid, stem: Path, options: ReadOptions
) -> CachedCase:
    """Bring a case to the grid, measure its tumour and write both beside `stem`.

    Raises:
        CaseError: every fault of the case, or no brain or tumour is left on the grid.
    """
    loaded = load_case(files, modalities, contents, options, grid.fov_mm)
    made = prepare_case(loaded, grid)
    image = without_faint_shell(made.image, made.label)
    if not image.any():
        raise CaseError(["no brain is left on the grid"])
    if not made.label.any():
        raise CaseError(["empty mask: no voxel of the tumour is left on the grid"])
    conditions = tuple(measure_tumour(made.label, grid.spacing_mm).vector(COLUMNS).tolist())
    source = _source(loaded.raw.header.description)
    values, warnings, array_file = loaded.raw.mask.values, loaded.warnings, stem.with_name(stem.name + ".npy")
    entry = CachedCase(files.name, array_file, made.scales, conditions, values, warnings, source)
    store_entry(entry, image, made.label, _file(files))
    return entry


def _source(description: bytes) -> Source:
    """What made a case, by the description in the header of its mask."""
    if description == PHANTOM_DESCRIPTION:
        return "phantom"
    return "sample" if description.startswith(SYNTHETIC.encode()) else "real"


def store_entry(entry: CachedCase, image: NDArray[np.uint8], label: NDArray[np.uint8], file: str) -> None:
    """Write a case, image (modality, x, y, z) and label (x, y, z), to its array file and what is known of it beside.

    `file` tells the case from one of the same name in another folder.
    """
    stacked = np.concatenate([image, label[None]]).transpose(3, 0, 1, 2)
    array = io.BytesIO()
    np.save(array, np.ascontiguousarray(stacked))
    write_atomic(entry.path, array.getvalue())
    known = {
        "case": entry.name,
        "file": file,
        "source": entry.source,
        "scales": entry.scales,
        "conditions": dict(zip(COLUMNS, entry.conditions, strict=True)),
        "label_values": entry.label_values,
        "warnings": entry.warnings,
    }
    write_atomic(entry.path.with_suffix(".json"), json.dumps(known).encode())


def load_entry(name: str, stem: Path) -> CachedCase | None:
    """The case whose files lie beside `stem`; None where they do not, or are damaged."""
    array_file, description = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")
    if not (array_file.is_file() and description.is_file()):
        return None
    try:
        np.load(array_file, mmap_mode="r")  # its header, and that it is as long as that says
        entry = json.loads(description.read_text("utf-8"))
        conditions = tuple(float(entry["conditions"][name]) for name in COLUMNS)
        values, warnings = tuple(entry["label_values"]), tuple(entry["warnings"])
        return CachedCase(name, array_file, tuple(entry["scales"]), conditions, values, warnings, entry["source"])
    except (ValueError, TypeError, KeyError, EOFError, OSError, SyntaxError, TokenError):
        return None


def _file(files: CaseFiles) -> str:
    """What tells this case from one of the same name in another folder."""
    return str(files.label.resolve()) if files.label is not None else ""


def _file_of(description: Path) -> str | None:
    """What `_file` said of an entry; None where that cannot be read."""
    try:
        return json.loads(description.read_text("utf-8"))["file"]
    except (ValueError, TypeError, KeyError, OSError):
        return None


def _remove_outdated(cache_dir: Path, prefix: str, kept: str, file: str) -> None:
    """Delete what earlier contents of the same files left under the same settings."""
    for path in cache_dir.glob(f"{glob.escape(prefix)}*.json"):
        if path.stem != kept and _file_of(path) == file:
            path.with_suffix(".npy").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

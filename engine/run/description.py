"""What a run is: its options, what they resolve to on this machine, its conditions; the content of `run.json`."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

from ..bundle.load import Bundle
from ..bundle.manifest import NAME, Grid
from ..conditions.columns import COLUMNS
from ..conditions.file import ConditionFile
from ..decode import decode
from ..dicom.extra import PACKAGES
from ..dicom.stack import Stack
from ..errors import InvalidInputError
from ..files import read_bounded
from ..output.case_files import FileVoxels, grid_of_files, slices_of, stack_of
from ..output.case_tags import IdTags, NumberTags, id_faults
from ..output.layouts import Layout, make_layout
from ..output.nifti import SYNTHETIC
from ..output.regrid import FileGrid
from ..output.scan_voxels import ScanVoxels
from ..sampling.given_masks import GivenMasks
from ..sampling.insert_case import InsertCase
from ..sampling.sdedit import Identity, SourceCase
from ..sampling.types import LoopKind
from ..versions import installed
from .options import MAX_COUNT, RunOptions

RUN_NAME = "run.json"
SCHEMA_VERSION = 3
MAX_RUN_BYTES = 64 * 2**20
CHECKSUM = "sha256"  # key of run.json: of all the rest of it, in canonical form
NOTICE = "SYNTHETIC sbldm-engine: these volumes show no patient"
NOTICE_MASKS = "SYNTHETIC sbldm-engine: images made around given masks, to be protected as those masks are"
NOTICE_INSERTED = (
    "SYNTHETIC sbldm-engine: the scan of a case with a part of it made anew, to be protected as that scan is"
)
NOTICE_AUGMENTED = "SYNTHETIC sbldm-engine: derived from the scan of a case, to be protected as that scan is"


class NotARunError(InvalidInputError):
    """A directory holds what is no run of ours."""


@dataclass(frozen=True)
class Resolved:
    """What the options came to on the machine that started the run; everything that goes on with it keeps this."""

    backend: str
    device: str
    precision: str
    batch_size: int
    threads: int
    compressor: str


@dataclass(frozen=True)
class Loop:
    """How the machine that started the run samples: for the reader, not part of what makes a run the same."""

    kind: LoopKind
    reason: str
    refused_batch_size: int | None  # asked for; there was memory for `Resolved.batch_size` only


@dataclass(frozen=True)
class ConditionsDigest:
    """Enough of a conditions file to tell whether, and where, it was changed."""

    sha256: str
    lines: str  # CRC-32 of each line, 8 hex digits each; after `N*` of every N lines together

    @staticmethod
    def of(file: ConditionFile) -> ConditionsDigest:
        """The digest of a file as it was read."""
        return ConditionsDigest(file.digest.sha256(), file.digest.lines())

    def sums(self) -> tuple[int, list[str]]:
        """How many lines are summed together, and the sums."""
        each, star, digits = self.lines.partition("*")
        each, digits = (int(each), digits) if star and each.isdecimal() else (1, each)
        return each, [digits[k : k + 8] for k in range(0, len(digits), 8)]


@dataclass(frozen=True)
class BundleIdentity:
    """Which bundle a run was started with, and what its files hold, so that a run can be read without it."""

    id: str
    sha256: str  # of bundle.json
    modalities: tuple[str, ...]
    labels: tuple[str, ...]  # class names, background first
    columns: tuple[str, ...]  # of the conditions
    grid: Grid


@dataclass(frozen=True)
class SourceDigest:
    """The real case that `augment` starts from."""

    sha256: str
    strength: float
    voxels: ScanVoxels | None  # where the case came from a scan
    identity: Identity

    notice: ClassVar[str] = NOTICE_AUGMENTED
    origin: ClassVar[str] = "from a real case"

    def __str__(self) -> str:
        return f"case {self.sha256[:12]} at strength {self.strength}"


@dataclass(frozen=True)
class MasksDigest:
    """The masks that were given to a run."""

    sha256: str
    masks: int  # how many
    edits: str  # sha256 of the rows that moved and scaled them; empty: as given

    notice: ClassVar[str] = NOTICE_MASKS
    origin: ClassVar[str] = "given mask"

    def __str__(self) -> str:
        return f"{self.masks} given masks {self.sha256[:12]}" + (f", edited by {self.edits[:12]}" if self.edits else "")


@dataclass(frozen=True)
class InsertDigest:
    """The scan that a lesion is put into, or taken out of."""

    sha256: str
    voxels: ScanVoxels
    kinds: tuple[str, ...]  # of a stored value, one a modality: NumPy's names
    removes: bool
    inserts: bool
    masks: int  # that were given; 0 where they are drawn
    volumes_ml: tuple[float, ...]
    margin_mm: float  # from the lesion at which nothing is changed
    mass_effect: bool

    notice: ClassVar[str] = NOTICE_INSERTED
    origin: ClassVar[str] = "from a real case"

    def __str__(self) -> str:
        done = " and ".join(name for name, is_done in (("remove", self.removes), ("insert", self.inserts)) if is_done)
        return f"scan {self.sha256[:12]} to {done}, margin {self.margin_mm:g} mm"


@dataclass(frozen=True)
class CopiesDigest:
    """The cases that no sample of a run is a copy of."""

    sha256: str  # of what is compared of them, and of the limits
    cases: int

    def __str__(self) -> str:
        return f"{self.cases} cases {self.sha256[:12]}"


AnySource = SourceDigest | MasksDigest | InsertDigest


def source_digest(source: SourceCase | GivenMasks | InsertCase | None) -> AnySource | None:
    """What run.json records of what sampling starts from."""
    if isinstance(source, InsertCase):
        kinds = tuple(file.kind for file in source.files)
        return InsertDigest(
            source.sha256(), source.voxels, kinds, source.removes, source.inserts, len(source.given),
            source.volumes_ml, source.margin_mm, source.has_mass_effect,
        )  # fmt: skip
    if isinstance(source, GivenMasks):
        return MasksDigest(source.sha256(), len(source.packed), source.edits)
    if source is None:
        return None
    identity: Identity = "replace" if source.study is None else "keep"
    return SourceDigest(source.sha256(), source.strength, source.voxels, identity)


@dataclass(frozen=True)
class RunDescription:
    """The content of `run.json`: equal for every shard of a run."""

    schema_version: int
    notice: str
    bundle: BundleIdentity
    versions: dict[str, str]
    options: RunOptions
    resolved: Resolved
    loop: Loop | None
    conditions: ConditionsDigest | None
    source: AnySource | None  # the case or scan of `augment`, or the masks that were given
    row_ids: tuple[str, ...] | None  # of the conditions, where files are named by id
    dataset_grid: FileGrid | None  # where `options.grid` is dataset
    exclude_copies: CopiesDigest | None  # cases that samples were compared with

    @cached_property
    def id(self) -> str:
        """Identity of the run: sha256 of its description; every ledger line is bound to it."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_derived(self) -> bool:
        """Whether it is made from somebody's scan or masks, and to be protected as those are."""
        return self.source is not None

    @property
    def origin(self) -> str:
        """What its samples are made from, "" for noise alone."""
        return "" if self.source is None else self.source.origin

    def inputs(self) -> dict[str, Any]:
        """What the run is made with, and the hashes of what it is made from, for the audit trail."""
        return {
            "run": self.id,
            "bundle": {"id": self.bundle.id, "sha256": self.bundle.sha256},
            "versions": self.versions,
            "conditions": None if self.conditions is None else self.conditions.sha256,
            "source": None if self.source is None else self.source.sha256,
        }

    def to_bytes(self) -> bytes:
        """The bytes of `run.json`."""
        return (json.dumps({**asdict(self), CHECKSUM: self.id}, indent=1, allow_nan=False) + "\n").encode()

    @cached_property
    def recipe(self) -> str:
        """See `RunOptions.recipe`."""
        return self.options.recipe(self.bundle.sha256, self.source)

    def stack(self) -> Stack:
        """The slices of the run's volumes, in DICOM."""
        return stack_of(self.file_grid(), self.bundle.grid)

    def layout(self) -> Layout:
        """The layout of the run's files."""
        return self._layout

    def file_grid(self) -> FileVoxels | None:
        """The voxels of the run's files; None where they are the model's."""
        if self.options.grid == "source":
            return self.source.voxels if isinstance(self.source, SourceDigest | InsertDigest) else None
        return self.dataset_grid if self.options.grid == "dataset" else grid_of_files(self.options.grid)

    @cached_property
    def _layout(self) -> Layout:
        tags = NumberTags() if self.row_ids is None else IdTags(self.row_ids)
        options, bundle = self.options, self.bundle
        slices = slices_of(self.file_grid(), bundle.grid)
        parts = bundle.modalities, bundle.labels, options.names, tags, slices, options.rtstruct
        return make_layout(options.layout, *parts)


def describe(
    bundle: Bundle,
    options: RunOptions,
    resolved: Resolved,
    backend: dict[str, str],
    conditions: ConditionsDigest | None,
    source: AnySource | None = None,
    loop: Loop | None = None,
    row_ids: tuple[str, ...] | None = None,
    dataset_grid: FileGrid | None = None,
    exclude_copies: CopiesDigest | None = None,
) -> RunDescription:
    """The description of a run.

    `backend` is name and version of its backend, `conditions` None where all are drawn, `row_ids` None where files are
    named by number, `dataset_grid` None where files have no data set's voxels, `exclude_copies` None where samples are
    not compared with cases.
    """
    manifest = bundle.manifest
    columns = tuple(column.name for column in manifest.condition_columns)
    return RunDescription(
        SCHEMA_VERSION,
        NOTICE if source is None else source.notice,
        BundleIdentity(manifest.id, bundle.sha256, manifest.modalities, manifest.labels, columns, manifest.grid),
        _versions(options.layout) | backend,
        options,
        resolved,
        loop,
        conditions,
        source,
        row_ids,
        dataset_grid,
        exclude_copies,
    )


def read_description(directory: Path) -> RunDescription:
    """The description in a run directory.

    Raises:
        InvalidInputError: there is none, or it is damaged or of another version.
    """
    path = directory / RUN_NAME
    try:
        written = read_bounded(path, MAX_RUN_BYTES)
        data = json.loads(written)
    except OSError as error:
        raise InvalidInputError(
            f"{path}: cannot be read ({error.strerror}); is this the directory of a run?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not valid JSON ({error}); the run must be started again elsewhere") from error
    if not isinstance(data, dict) or not str(data.get("notice")).startswith(SYNTHETIC):
        raise NotARunError(f"{path}: was not written by sbldm-engine; this is not the directory of a run")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{path}: schema_version is {data.get('schema_version')!r}, this version reads {SCHEMA_VERSION}; "
            "finish the run with the version that started it, or make it again elsewhere"
        )
    recorded = data.pop(CHECKSUM, None)
    run = decode(RunDescription, data, str(path))
    if run.id != recorded or run.to_bytes() != written:
        raise InvalidInputError(
            f"{path}: its {CHECKSUM} does not fit its content, so it was changed; restore it, or make the run elsewhere"
        )
    _check(run, str(path))
    return run


def _check(run: RunDescription, where: str) -> None:
    """InvalidInputError for a description that no run can have."""
    if not 1 <= run.options.count <= MAX_COUNT:
        raise InvalidInputError(f"{where}: options: count is {run.options.count}, must be from 1 to {MAX_COUNT}")
    for name in (*run.bundle.modalities, *run.bundle.labels, *run.bundle.columns):
        if not NAME.fullmatch(name):
            raise InvalidInputError(f"{where}: bundle: name {name!r} must match {NAME.pattern}")
    if not set(run.bundle.columns) <= set(COLUMNS):
        raise InvalidInputError(f"{where}: bundle: columns must be among {', '.join(COLUMNS)}")
    if (run.row_ids is None) != (run.options.name_by == "sample") or run.row_ids == ():
        raise InvalidInputError(f"{where}: row_ids: must be there where name_by is id, and only there")
    for row, allowed in id_faults(run.row_ids or ()):
        raise InvalidInputError(f"{where}: row_ids[{row}]: must be {allowed}")
    if (run.dataset_grid is None) != (run.options.grid != "dataset"):
        raise InvalidInputError(f"{where}: dataset_grid: must be there where grid is dataset, and only there")
    if run.dataset_grid is not None and (wrong := run.dataset_grid.problems()):
        raise InvalidInputError(f"{where}: dataset_grid: {wrong[0]}")
    voxels = run.source.voxels if isinstance(run.source, SourceDigest | InsertDigest) else None
    if isinstance(run.source, InsertDigest):
        _check_insert(run, run.source, where)
    if run.options.grid == "source" and voxels is None:
        raise InvalidInputError(f"{where}: source: must have voxels where grid is source")
    if voxels is not None and (wrong := voxels.problems()):
        raise InvalidInputError(f"{where}: source: voxels: {wrong[0]}")
    problems = run.bundle.grid.problems()
    if problems:
        raise InvalidInputError(f"{where}: bundle: {problems[0]}")
    run.layout()


def _check_insert(run: RunDescription, source: InsertDigest, where: str) -> None:
    if run.options.grid != "source" or run.options.layout == "dicom":
        raise InvalidInputError(f"{where}: options: of an inserted lesion grid must be source, and layout not dicom")
    for kind in source.kinds:
        if not re.fullmatch(r"[<>|=][iuf][1248]", kind, re.ASCII):
            raise InvalidInputError(f"{where}: source: kinds: {kind!r} is no type of a stored value")
    if len(source.kinds) != len(run.bundle.modalities):
        raise InvalidInputError(f"{where}: source: kinds: must be {len(run.bundle.modalities)}, one a modality")


def differences(recorded: RunDescription, wanted: RunDescription) -> list[str]:
    """What keeps `wanted` from being the recorded run, one line a difference; empty when nothing does."""
    found = []
    if recorded.bundle != wanted.bundle:
        old, new = recorded.bundle, wanted.bundle
        found.append(f"bundle: the run has {old.id} ({old.sha256[:12]}), asked for {new.id} ({new.sha256[:12]})")
    if recorded.source != wanted.source:
        found.append(f"source: the run has {recorded.source or 'none'}, asked for {wanted.source or 'none'}")
    if recorded.exclude_copies != wanted.exclude_copies:
        old, new = (run.exclude_copies or "none" for run in (recorded, wanted))
        found.append(f"exclude-copies: the run has {old}, asked for {new}")
    if recorded.dataset_grid != wanted.dataset_grid:
        found.append(f"grid: the run has {_voxels(recorded)}, asked for {_voxels(wanted)}")
    for part in ("options", "resolved"):
        old, new = asdict(getattr(recorded, part)), asdict(getattr(wanted, part))
        found += [f"{k.replace('_', '-')}: the run has {old[k]}, asked for {new[k]}" for k in old if old[k] != new[k]]
    for name in sorted((recorded.versions.keys() & wanted.versions.keys()) - {"python"}):
        if recorded.versions[name] != wanted.versions[name]:
            found.append(f"version of {name}: the run has {recorded.versions[name]}, here is {wanted.versions[name]}")
    return found + _conditions_difference(recorded.conditions, wanted.conditions)


def _voxels(run: RunDescription) -> str:
    grid = run.dataset_grid
    if grid is None:
        return f"no data set's ({run.options.grid})"
    sides = " x ".join(f"{side:g}" for side in grid.turned.spacing_mm)
    return f"{' x '.join(map(str, grid.shape))} voxels of {sides} mm"


def _conditions_difference(old: ConditionsDigest | None, new: ConditionsDigest | None) -> list[str]:
    if old == new:
        return []
    has, asked = ("a file" if digest else "none" for digest in (old, new))
    if old is None or new is None:
        return [f"conditions: the run has {has}, asked for {asked}"]
    (each, old_sums), (other, new_sums) = old.sums(), new.sums()
    changed = [k for k, (was, now) in enumerate(zip_longest(old_sums, new_sums)) if was != now]
    if each != other:
        where = "in its size"
    elif each > 1 and changed:
        where = f"first within lines {changed[0] * each + 1} to {(changed[0] + 1) * each}"
    else:
        where = f"first in line {changed[0] + 1}, {len(changed)} in all" if changed else "in its line ends"
    return [f"conditions: the file is not the one that the run was started with; it differs {where}"]


def _versions(layout: str) -> dict[str, str]:
    names = ("sbldm-engine", "numpy", "scipy", "scikit-image", "nibabel", "isal")
    names += PACKAGES if layout == "dicom" else ()
    return {"python": platform.python_version(), **{name: installed(name) or "unknown" for name in names}}

"""What a user asks of a generation, checked in one place: the command line, `Generator` and `bench` build it.

Three kinds of fields. *The run* fixes the bytes of what is made and becomes `RunOptions`, the `options` of run.json.
*The machine* is resolved where a run starts and becomes `Resolved`. *This process* says which part is made, where and
by whom, and leaves no trace in run.json. To add an option: a field here (and in `RunOptions` where it fixes bytes), and
a flag of the same name in `cli/_options.py`.

Messages spell a field as the command line does; `arguments.python_call` respells them for the Python interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ..bundle.load import Bundle
from ..bundle.manifest import SamplerName
from ..conditions.columns import ConditionRows
from ..conditions.csv import RowWatch
from ..conditions.table import ConditionsLike, read_table
from ..copies import CopyReference
from ..dicom.extra import require_dicom
from ..errors import UsageError
from ..output.case_files import GRIDS, GridName
from ..output.case_tags import NAME_BY, NameBy
from ..output.layouts import LayoutName, Names, make_layout
from ..output.regrid import FileGrid
from ..sampling.given_masks import GivenMasks, check_masks
from ..sampling.insert_case import InsertCase, check_insert
from ..sampling.plan import sampling_plan
from ..sampling.sdedit import SourceCase, check_source
from ..sampling.types import SamplingOptions, check_options
from .options import MAX_BATCH, MAX_COUNT, SAMPLERS, RunOptions, asked_sampling, most_steps
from .rules import batch, choice, fault, flag, path, read_fields, real, text, tolerance, wanted, whole
from .selection import parse_samples, parse_shard
from .time_limit import SAMPLE_TIMEOUT_S

Source = SourceCase | GivenMasks | InsertCase
RunGridName = GridName | Literal["source"]
RUN_GRIDS: tuple[RunGridName, ...] = (*GRIDS, "source")


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """Samples that are asked for; None and "auto" leave the choice to the bundle, the machine or the recorded run.

    Raises:
        UsageError: values of the wrong type, out of range or against each other; all are named, one a line.
        InvalidInputError: the source does not fit the bundle.
    """

    bundle: Bundle

    # The run
    conditions: Annotated[ConditionsLike, wanted()] = None  # wanted tumours; None: each one is drawn
    dataset_grid: FileGrid | None = None  # of --add-to: the data set's, in place of `grid`
    source: Source | None = None  # what sampling starts from: the case or scan of `augment`, or masks; None: nothing
    count: Annotated[int | None, whole(1)] = None  # samples; None: one a row of the conditions
    seed: Annotated[int, whole(0, 2**64 - 1, "from 0 to 2^64 - 1")] = 0
    steps: Annotated[int | None, whole()] = None  # denoising steps, from 1 to `most_steps`; None: the bundle's
    sampler: Annotated[SamplerName | None, choice(SAMPLERS)] = None  # None: the bundle's
    eta: Annotated[float | None, real(0, 1)] = None  # noise of DDIM steps; None: the bundle's
    guidance: Annotated[float | None, real(0, 100)] = None  # classifier-free guidance, 1 is none; None: the bundle's
    layout: Annotated[LayoutName, text()] = "brats"  # those of `output.layouts`
    names: Annotated[Names, text()] = "2021"  # BraTS file names of that year
    name_by: Annotated[NameBy, choice(NAME_BY)] = "sample"  # what file names hold: the sample's number, or its id
    grid: Annotated[RunGridName, choice(RUN_GRIDS)] = "native"  # the model's, 240x240x155 at 1 mm, or the source's
    rtstruct: Annotated[bool, flag()] = False  # of the layout dicom: the mask as contours, too
    reject: Annotated[float | None, tolerance(10)] = None  # miss that is redrawn (`writer.miss`); None: never
    attempts: Annotated[int, whole(1, 100)] = 4  # redraws at most, with reject or exclude_copies
    exclude_copies: CopyReference | None = None  # cases; what is a copy of one is drawn again, and never written

    # The machine
    backend: Annotated[str, text()] = "auto"  # those of `backends.choose`
    device: Annotated[str, text()] = "auto"  # cpu, cuda or cuda:I
    precision: Annotated[str, text()] = "auto"  # what the backend offers
    batch_size: Annotated[int | Literal["auto"] | None, batch(MAX_BATCH)] = (
        None  # others: 1 on a CPU, by memory on a GPU
    )
    threads: Annotated[int | None, whole(1, 1024)] = None  # CPU threads a process; None: all

    # This process
    out: Annotated[Path | None, path()] = None  # directory of the run; None: samples as arrays
    resume: Annotated[bool, flag()] = False  # go on with the run in `out`
    shard: Annotated[str, text()] = "0/1"  # "I/N": part I (from 0) of N
    samples: Annotated[str | None, text()] = None  # sample numbers such as "3,7-9"; None: all
    strict: Annotated[bool, flag()] = False  # refuse tumours far from the training cohort
    workers: Annotated[int, whole(1, 256)] = 1  # processes on this machine
    ray: Annotated[str | None, text()] = None  # address of a Ray cluster
    sample_timeout: Annotated[float, real(0.1, 1e6)] = SAMPLE_TIMEOUT_S  # seconds, then a sample is tried once more
    verify_files: Annotated[bool, flag()] = False  # hash what is there before a complete run counts as complete

    def __post_init__(self) -> None:
        if not isinstance(self.bundle, Bundle):
            raise UsageError(f"--bundle {self.bundle!r}: must be a loaded bundle, see `load_bundle`")
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        values, faults = read_fields(GenerateRequest, given)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for names, check in self._relations():
            if not faults.keys() & {*names}:
                try:
                    check()
                except UsageError as error:
                    faults[names[0]] = str(error)
        if faults:
            raise UsageError("\n".join(faults[name] for name in given if name in faults))

    def options(self, rows: int = 1) -> RunOptions:
        """The run's options with the bundle's defaults; `rows` of the conditions count where `count` is None."""
        sampling = asked_sampling(
            self.bundle.manifest,
            sampler=self.sampler,
            steps=self.steps,
            eta=self.eta,
            guidance=self.guidance,
            from_case=isinstance(self.source, SourceCase | InsertCase),
        )
        defaults: dict[str, Any] = {"count": rows, **vars(sampling)}
        asked: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(RunOptions)}
        asked |= {name: value for name, value in defaults.items() if asked[name] is None}
        if self.dataset_grid is not None:
            asked["grid"] = "dataset"
        return RunOptions(**asked)

    def table(self, watch: RowWatch | None = None) -> ConditionRows:
        """The wanted tumours in the order of the bundle's columns; `watch` is shown those of a file or of given masks.

        Raises:
            InvalidInputError: all faults of the conditions.
        """
        if isinstance(self.source, GivenMasks | InsertCase) and self.source.conditions is not None:
            given = self.source.conditions
            if watch is not None:
                watch.add(given, watch.measure(given))
            return given
        manifest = self.bundle.manifest
        columns = [column.name for column in manifest.condition_columns]
        return read_table(self.conditions, columns, manifest.grid.fov_mm, watch)

    def _relations(self) -> Iterator[tuple[tuple[str, ...], Callable[[], object]]]:
        """Checks that need more than one field, or the bundle: (fields, the first is told at fault; check)."""
        source = self.source
        yield ("count", "conditions"), self._asks_for_something
        yield ("count",), self._count_has_an_end
        yield ("conditions", "out"), self._conditions_can_be_recorded
        yield ("dataset_grid",), self._dataset_grid_is_one
        yield ("grid", "layout", "source"), self._source_has_voxels
        yield ("layout", "source"), self._identity_can_be_kept
        yield ("reject", "exclude_copies", "source"), self._series_have_one_noise
        yield ("steps",), self._steps_fit_the_schedule
        yield ("layout", "names", "rtstruct"), self._layout_is_one
        yield ("layout",), self._layout_can_be_written
        yield ("eta", "sampler", "steps", "guidance", "seed"), self._sampler_takes_the_options
        yield ("shard",), lambda: parse_shard(self.shard)
        yield ("samples", "count"), self._samples_exist
        if source is not None:
            yield ("source",), lambda: _require_source(source, self.bundle)

    def _asks_for_something(self) -> None:
        if isinstance(self.source, GivenMasks | InsertCase) and self.source.conditions is not None:
            if self.conditions is not None:
                raise UsageError("--conditions: the source has conditions of its own, see `scans.masks.edited_masks`")
        elif self.count is None and self.conditions is None:
            raise UsageError("give --count N, --conditions FILE or both")

    def _count_has_an_end(self) -> None:
        if self.count is not None and self.count > MAX_COUNT:
            raise UsageError(fault("count", self.count, f"must be from 1 to {MAX_COUNT}"))

    def _conditions_can_be_recorded(self) -> None:
        if self.out is not None and not isinstance(self.conditions, Path | None):
            raise UsageError("--conditions: a run in a directory is recorded with its file; give the path of a CSV")

    def _dataset_grid_is_one(self) -> None:
        if self.dataset_grid is not None and not isinstance(self.dataset_grid, FileGrid):
            raise UsageError(fault("dataset_grid", repr(self.dataset_grid), "must be a FileGrid, or None"))

    def _source_has_voxels(self) -> None:
        if isinstance(self.source, InsertCase):
            if self.grid != "source" or self.layout == "dicom":
                raise UsageError("--grid: --insert and --remove keep the scan's voxels (source), in NIfTI files")
        elif self.grid == "source" and (not isinstance(self.source, SourceCase) or self.source.voxels is None):
            raise UsageError("--grid source: is for augment, whose case has voxels of its own")

    def _layout_is_one(self) -> None:
        manifest = self.bundle.manifest
        make_layout(self.layout, manifest.modalities, manifest.labels, self.names, rtstruct=self.rtstruct)

    def _layout_can_be_written(self) -> None:
        if self.layout == "dicom":
            require_dicom()

    def _identity_can_be_kept(self) -> None:
        kept = isinstance(self.source, SourceCase) and self.source.study is not None
        if kept and (self.layout != "dicom" or self.grid != "source"):
            raise UsageError("--identity keep: needs --layout dicom and --grid source, where the source's space holds")

    def _series_have_one_noise(self) -> None:
        if not isinstance(self.source, InsertCase) or not self.source.volumes_ml:
            return
        for name, asked in (("--reject", self.reject), ("--exclude-copies", self.exclude_copies)):
            if asked is not None:
                raise UsageError(f"{name}: goes without --volumes, whose series has one noise: none of it is redrawn")

    def _steps_fit_the_schedule(self) -> None:
        most = most_steps(self.bundle.manifest)
        if self.steps is not None and not 1 <= self.steps <= most:
            raise UsageError(fault("steps", self.steps, f"must be from 1 to {most}"))

    def _sampler_takes_the_options(self) -> None:
        o = self.options()
        options = SamplingOptions(o.steps, o.sampler, o.eta, o.guidance, o.seed, 1)
        check_options(options)
        if o.sampler == "fitted":
            if isinstance(self.source, SourceCase | InsertCase):
                raise UsageError("--sampler fitted: its steps start from noise alone; use ddim or dpmpp-2m")
            sampling_plan(self.bundle.manifest.schedule, options)

    def _samples_exist(self) -> None:
        if self.samples is not None and self.count is not None:
            parse_samples(self.samples, self.count)


def _require_source(source: Source, bundle: Bundle) -> None:
    """Types of a case's parts; then what `check_source` or `check_masks` raises."""
    if isinstance(source, GivenMasks):
        check_masks(source, bundle)
        return
    if isinstance(source, InsertCase):
        check_insert(source, bundle)
        return
    for name, array, kinds in (("image", source.image, "iuf"), ("label", source.label, "iu")):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
            raise UsageError(f"--{name}: must be an array of numbers, as a `Sample` holds it")
    if isinstance(source.strength, bool) or not isinstance(source.strength, Real):
        raise UsageError(f"--strength {source.strength!r}: must be a number")
    check_source(source, bundle)


def require_fields(**given: object) -> None:
    """UsageError that names each of these fields of a request whose type or own range is wrong; no bundle is needed."""
    _, faults = read_fields(GenerateRequest, given)
    if faults:
        raise UsageError("\n".join(faults.values()))

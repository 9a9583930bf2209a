"""The Python interface: samples as arrays, without files, without torch.

with Generator.load("phantom") as generator:
    for sample in generator.generate(conditions=[{"volume_ml": 20, "x": 0.4}], count=3, seed=1):
        train_on(sample.image, sample.label)
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends.choose import choose_backend
from .bundle.load import DEFAULT_BUNDLE, Bundle, load_bundle
from .conditions.columns import Conditions, blank, normalise
from .conditions.csv import read_conditions
from .conditions.faults import Faults
from .conditions.rules import violations
from .errors import InvalidInputError, SbldmError, UsageError
from .output.measure import TumourMeasurement, measure_tumour
from .run.open_loop import fit_batch, open_loop
from .run.options import RunOptions, make_options
from .run.requests import Requests, SampleTask
from .run.writer import miss
from .sampling.sdedit import SourceCase, check_source
from .sampling.types import Backend, RunLoop, SampleRequest, Volume

ConditionsLike = str | os.PathLike[str] | Conditions | Sequence[Mapping[str, float]] | None


class Cancelled(SbldmError):
    """Sampling was stopped by `cancel`, by its `stop` event or by `close`."""

    exit_code = 130


@dataclass(frozen=True)
class Sample:
    """One synthetic case."""

    index: int
    id: str
    image: NDArray[np.int16]  # (modality, x, y, z) RAS+, 0..1000, background 0
    label: NDArray[np.uint8]  # (x, y, z): 0 background, 1 NCR, 2 ED, 3 ET
    affine: NDArray[np.float64]  # (4, 4), voxel index to millimetres
    requested: dict[str, float]  # the complete conditions that the model was given
    measured: TumourMeasurement
    attempt: int  # the draw that was kept; 0 without `reject`
    fault: str | None  # None for a good sample; else why it must not be used


class Generator:
    """A model ready to sample; threads may share it, and take turns on the backend.

    Equal arguments give equal samples whatever else was asked for before: sample k depends on the seed, k and the
    conditions alone.
    """

    def __init__(self, bundle: Bundle, backend: Backend, *, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size}: must be 1 or more")
        self.bundle, self.backend, self.batch_size = bundle, backend, batch_size
        self._turn = threading.Lock()
        self._cancelled = threading.Event()
        self._closed = False

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        batch_size: int = 1,
    ) -> Generator:
        """A generator of a shipped bundle's name, or of a path.

        Raises:
            InvalidInputError: the bundle is damaged.
            UsageError, BackendUnavailableError: what was asked for cannot run here.
        """
        loaded = load_bundle(bundle)
        chosen = choose_backend(loaded, backend, device, precision, threads, batch_size)
        return cls(loaded, chosen, batch_size=batch_size)

    def generate(
        self,
        count: int | None = None,
        *,
        conditions: ConditionsLike = None,
        seed: int = 0,
        steps: int | None = None,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> Iterator[Sample]:
        """Samples 0 to count - 1 as they finish, in order; `count` defaults to one a row of `conditions`.

        Args:
            conditions: path of a CSV, rows as mappings of column to value, or None to draw everything. Rows are reused
                in order; what a row leaves out is drawn given what it holds.
            stop: ends the iteration by `Cancelled`, at the next denoising step; on a GPU at the next batch.
            options: `sampler`, `eta`, `guidance`, `reject` and `attempts` as on the command line.

        Raises:
            UsageError: an option is out of range, or the generator is closed.
            InvalidInputError: the conditions contradict themselves.
            Cancelled: see `stop` and `cancel`.
        """
        requests, asked, loop = self._prepare(count, conditions, seed, {"steps": steps, **options}, None)
        return self._samples(requests, asked, loop, range(asked.count), self._stops(stop))

    def sample(
        self,
        index: int,
        *,
        conditions: ConditionsLike = None,
        seed: int = 0,
        steps: int | None = None,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> Sample:
        """Sample number `index` alone, the same as `generate` gives with these arguments; see there."""
        if index < 0:
            raise UsageError(f"sample {index}: must be 0 or more")
        requests, asked, loop = self._prepare(index + 1, conditions, seed, {"steps": steps, **options}, None)
        return next(self._samples(requests, asked, loop, [index], self._stops(stop)))

    def augment(
        self,
        image: NDArray[np.int16],
        label: NDArray[np.uint8],
        strength: float,
        count: int | None = None,
        *,
        conditions: ConditionsLike = None,
        seed: int = 0,
        steps: int | None = None,
        stop: threading.Event | None = None,
        **options: Any,
    ) -> Iterator[Sample]:
        """Samples near a case: see `engine.augment`. `image` and `label` as a `Sample` holds them, on the model's grid.

        Raises:
            UsageError, InvalidInputError: the strength is outside 0..1, the case does not fit; see also `generate`.
        """
        source = SourceCase(image, label, strength)
        check_source(source, self.bundle)
        requests, asked, loop = self._prepare(count, conditions, seed, {"steps": steps, **options}, source)
        return self._samples(requests, asked, loop, range(asked.count), self._stops(stop))

    def cancel(self) -> None:
        """Stop all that is being sampled; what is asked for later runs again."""
        running, self._cancelled = self._cancelled, threading.Event()
        running.set()

    def close(self) -> None:
        """Cancel, and refuse further work."""
        self._closed = True
        self.cancel()

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(
        self,
        count: int | None,
        conditions: ConditionsLike,
        seed: int,
        options: dict[str, Any],
        source: SourceCase | None,
    ) -> tuple[Requests, RunOptions, RunLoop]:
        if self._closed:
            raise UsageError("the generator is closed")
        if count is None and conditions is None:
            raise UsageError("give count, conditions or both")
        table = as_conditions(conditions, self.bundle)
        asked = make_options(self.bundle, len(table) if count is None else count, seed=seed, **options)
        with self._turn:
            loop = fit_batch(
                lambda n: open_loop(self.bundle, self.backend, asked, n, source), self.batch_size, _warn_of_memory
            )
        return Requests.of(table, self.bundle.manifest, seed), asked, loop

    def _stops(self, stop: threading.Event | None) -> list[threading.Event]:
        return [self._cancelled] if stop is None else [self._cancelled, stop]

    def _samples(
        self,
        requests: Requests,
        options: RunOptions,
        loop: RunLoop,
        indices: Sequence[int],
        stops: list[threading.Event],
    ) -> Iterator[Sample]:
        def check() -> None:
            if any(stop.is_set() for stop in stops):
                raise Cancelled("sampling was cancelled")

        for group in requests.groups(indices, loop.options.batch_size):
            kept: dict[int, Sample] = {}
            misses: dict[int, float] = {}
            tasks = group
            while tasks:
                volumes = self._volumes(loop, tasks, check)
                tasks = self._keep(tasks, volumes, options, kept, misses)
            yield from (kept[task.sample] for task in group)

    def _volumes(self, loop: RunLoop, tasks: list[SampleTask], check: Any) -> list[Volume]:
        rows = normalise(np.array([task.requested for task in tasks]), self.bundle.manifest.condition_columns)
        asked = [SampleRequest(task.sample, task.attempt, row) for task, row in zip(tasks, rows, strict=True)]
        check()
        with self._turn:
            return loop.start(asked, check)()

    def _keep(
        self,
        tasks: list[SampleTask],
        volumes: list[Volume],
        options: RunOptions,
        kept: dict[int, Sample],
        misses: dict[int, float],
    ) -> list[SampleTask]:
        """Note each volume that is the best of its sample so far; the tasks to draw again."""
        again: list[SampleTask] = []
        for task, volume in zip(tasks, volumes, strict=True):
            sample, missed = self._finish(task, volume)
            if task.sample not in kept or missed < misses[task.sample]:
                kept[task.sample], misses[task.sample] = sample, missed
            if options.reject is not None and missed > options.reject and task.attempt < options.attempts:
                again.append(replace(task, attempt=task.attempt + 1))
        return again

    def _finish(self, task: SampleTask, volume: Volume) -> tuple[Sample, float]:
        grid = self.bundle.manifest.grid
        columns = [column.name for column in self.bundle.manifest.condition_columns]
        measured = measure_tumour(volume.label, grid.spacing_mm, np.any(volume.image > 0, axis=0))
        requested = dict(zip(columns, task.requested, strict=True))
        sample = Sample(
            task.sample,
            task.id,
            volume.image,
            volume.label,
            grid.affine,
            requested,
            measured,
            task.attempt,
            volume.fault,
        )
        return sample, float("inf") if volume.fault else miss(requested, measured, grid.fov_mm)


def _warn_of_memory(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def as_conditions(conditions: ConditionsLike, bundle: Bundle) -> Conditions:
    """A condition table of any accepted form, checked by the rules of the CSV.

    Raises:
        InvalidInputError: all its faults.
    """
    columns = tuple(column.name for column in bundle.manifest.condition_columns)
    view = bundle.manifest.grid.fov_mm
    if conditions is None:
        return blank(columns)
    if isinstance(conditions, Conditions):
        return conditions
    if isinstance(conditions, str | os.PathLike):
        return read_conditions(Path(conditions), columns, view)
    if not conditions:
        raise InvalidInputError("conditions: no rows; give at least one, or None to draw everything")
    source, faults = "conditions", Faults("conditions")
    for number, row in enumerate(conditions, start=1):
        for name in row.keys() - {*columns}:
            faults.add(number, str(name), str(row[name]), f"a condition of this model: {', '.join(columns)}")
    faults.raise_if_any()
    values = np.array([[float(row.get(name, np.nan)) for name in columns] for row in conditions])
    for violation in violations(values, columns, view):
        for row in violation.rows.tolist():
            faults.add(row + 1, violation.column, violation.value(row), violation.allowed(row))
    faults.raise_if_any()
    return Conditions(columns, ("",) * len(values), values, tuple(range(1, len(values) + 1)), source)

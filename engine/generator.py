"""The Python interface: samples as arrays, without files, without torch.

with Generator.load("phantom") as generator:
    for sample in generator.generate(conditions=[{"volume_ml": 20, "x": 0.4}], count=3, seed=1):
        train_on(sample.image, sample.label)
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from .backends.choose import choose_backend
from .bundle.load import DEFAULT_BUNDLE, Bundle, load_bundle
from .changed_scan import ChangedScan
from .conditions.table import ConditionsLike, read_table
from .errors import InvalidInputError, SbldmError, UsageError
from .output.scan_files import Patch
from .run.arguments import MachineArguments, SamplingArguments, python_call
from .run.open_loop import fit_batch, open_loop
from .run.options import RunOptions
from .run.redraw import Redraws
from .run.request import GenerateRequest, require_fields
from .run.requests import Requests, SampleTask, sample_requests
from .sample import Faulty, Sample, finisher, require_faulty
from .sampling.given_masks import GivenMasks, require_mask_first
from .sampling.insert import InsertedVolume
from .sampling.insert_case import DEFAULT_MARGIN_MM, InsertCase
from .sampling.sdedit import SourceCase
from .sampling.types import Backend, RunLoop, Volume
from .scans.insert_scan import InsertWishes, plan_insert
from .scans.masks import edited_masks, masks_of_arrays
from .scans.options import Cavity, Orientation, ReadOptions, read_options
from .scans.scan import OpenedScan, ScanLike, open_scan
from .screen import counted

T = TypeVar("T")
AnySample = TypeVar("AnySample", Sample, ChangedScan)


class Cancelled(SbldmError):
    """Sampling was stopped by `cancel`, by its `stop` event or by `close`."""

    exit_code = 130


class Generator:
    """A model ready to sample; threads may share it, and take turns on the backend.

    Equal arguments give equal samples whatever else was asked for before: sample k depends on the seed, k and the
    conditions alone.
    """

    @python_call()
    def __init__(self, bundle: Bundle, backend: Backend, *, batch_size: int = 1) -> None:
        _require_batch_size(batch_size)
        self.bundle, self.backend, self.batch_size = bundle, backend, int(batch_size)
        self._turn = threading.Lock()
        self._cancelled = threading.Event()
        self._closed = False

    @classmethod
    @python_call(MachineArguments)
    def load(
        cls,
        bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
        *,
        require_signature: str | os.PathLike[str] | None = None,
        batch_size: int = 1,
        **machine: Unpack[MachineArguments],
    ) -> Generator:
        """A generator of a shipped bundle's name, or of a path.

        Args:
            bundle: name or path.
            require_signature: PEM file of the public key, or of the issuer's certificate, that must have signed it.
            batch_size: samples that are sampled together.
            machine: `backend`, `device`, `precision`, `threads` as on the command line.

        Raises:
            InvalidInputError: the bundle is damaged, or not signed as required.
            UsageError, BackendUnavailableError: what was asked for cannot run here.
        """
        _require_batch_size(batch_size)
        require_fields(**machine)
        if not isinstance(bundle, str | os.PathLike):
            raise UsageError(f"--bundle {bundle!r}: must be the name of a shipped or pulled bundle, or a path")
        if not isinstance(require_signature, str | os.PathLike | None):
            raise UsageError(f"--require-signature {require_signature!r}: must be a path")
        loaded = load_bundle(bundle, require_signature)
        chosen = choose_backend(
            loaded,
            machine.get("backend", "auto"),
            machine.get("device", "auto"),
            machine.get("precision", "auto"),
            machine.get("threads"),
            batch_size,
        )
        return cls(loaded, chosen, batch_size=batch_size)

    @python_call(SamplingArguments)
    def generate(
        self,
        count: int | None = None,
        *,
        conditions: ConditionsLike = None,
        masks: Sequence[NDArray[np.integer]] | None = None,
        stop: threading.Event | None = None,
        faulty: Faulty = "raise",
        **options: Unpack[SamplingArguments],
    ) -> Iterator[Sample]:
        """Samples 0 to count - 1 as they finish, in order; `count` defaults to one a row of `conditions`.

        Args:
            count: number of samples.
            conditions: path of a CSV, rows as mappings of its columns to values (`id` a text), or None to draw
                everything. Rows are reused in order; what a row leaves out is drawn given what it holds.
            masks: labels (x, y, z) as a `Sample` has them, on the model's grid: images are made around them, in order,
                and `count` defaults to their number. A bundle of the mask-first form is needed. `conditions` beside
                them move and scale them (`masks.edit`): row k mask k, in turn.
            stop: ends the iteration by `Cancelled`, at the next denoising step; on a GPU at the next batch.
            faulty: a sample that must not be used ends the iteration by FaultySampleError (`raise`), is left out
                (`skip`), or comes with its `fault` (`keep`).
            options: `seed`, `steps`, `sampler`, `eta`, `guidance`, `reject` and `attempts` as on the command line.

        Raises:
            FaultySampleError: see `faulty`.
            UsageError: an argument does not exist, is mistyped or out of range, or the generator is closed.
            InvalidInputError: the conditions contradict themselves, a mask is none.
            Cancelled: see `stop` and `cancel`.
        """
        require_faulty(faulty)
        source = None if masks is None else self._given(masks, conditions)
        conditions = conditions if masks is None else None
        request = GenerateRequest(bundle=self.bundle, count=count, conditions=conditions, source=source, **options)
        return _judged(self.samples(request, stop), faulty)

    @python_call(SamplingArguments)
    def sample(
        self,
        index: int,
        *,
        conditions: ConditionsLike = None,
        stop: threading.Event | None = None,
        faulty: Faulty = "raise",
        **options: Unpack[SamplingArguments],
    ) -> Sample:
        """Sample number `index` alone, the same as `generate` gives with these arguments; see there.

        A faulty one raises FaultySampleError, or comes with its `fault` where `faulty` is `keep`.
        """
        require_faulty(faulty, ("raise", "keep"))
        if not isinstance(index, int | np.integer) or isinstance(index, bool) or index < 0:
            raise UsageError(f"sample {index!r}: must be a whole number, 0 or more")
        request = GenerateRequest(bundle=self.bundle, count=int(index) + 1, conditions=conditions, **options)
        return next(_judged(self.samples(request, stop, int(index)), faulty))

    @python_call(SamplingArguments)
    def augment(
        self,
        image: NDArray[np.int16],
        label: NDArray[np.uint8],
        strength: float,
        count: int | None = None,
        *,
        conditions: ConditionsLike = None,
        stop: threading.Event | None = None,
        faulty: Faulty = "raise",
        **options: Unpack[SamplingArguments],
    ) -> Iterator[Sample]:
        """Samples near a case, see `sampling.sdedit`; `image` and `label` as a `Sample` has them, on the model's grid.

        Raises:
            UsageError, InvalidInputError: the strength is outside 0..1, the case does not fit; see also `generate`.
        """
        require_faulty(faulty)
        source = SourceCase(image, label, strength)
        request = GenerateRequest(bundle=self.bundle, count=count, conditions=conditions, source=source, **options)
        return _judged(self.samples(request, stop), faulty)

    @python_call()
    def open_scan(
        self,
        scan: ScanLike,
        *,
        labels: str | None = None,
        cavity: Cavity = "refuse",
        orientation: Orientation | None = None,
    ) -> OpenedScan:
        """A scan read once, for several calls of `insert` and `remove`.

        Args:
            scan: folder of one scan in NIfTI, a file a modality, all on the same voxels, or a `sbldm.Scan` of arrays.
            labels: what the numbers of the files' masks mean, as on the command line; so `cavity` and `orientation`.

        Raises:
            InvalidInputError: no scan, several, a broken one; every fault is named.
            UsageError: the bundle cannot change a part of a scan, or an argument is mistyped.
        """
        return open_scan(scan, self.bundle, read_options(labels, cavity, orientation))

    @python_call(SamplingArguments)
    def insert(
        self,
        scan: ScanLike,
        count: int | None = None,
        *,
        conditions: ConditionsLike = None,
        masks: str | os.PathLike[str] | Sequence[NDArray[np.integer]] | None = None,
        volumes: Sequence[float] = (),
        remove: bool = False,
        margin: float = DEFAULT_MARGIN_MM,
        mass_effect: bool = False,
        stop: threading.Event | None = None,
        faulty: Faulty = "raise",
        **options: Unpack[SamplingArguments],
    ) -> Iterator[ChangedScan]:
        """Scans with a lesion put in, as they finish: nothing but voxels nearer to it than the margin changes.

        `augment --insert` makes the same, file by file.

        Args:
            scan: see `open_scan`; healthy, or with a lesion of its own.
            count: number of scans, of series with `volumes`; by default one a row or mask.
            conditions: the tumours, as `generate` takes them; each is drawn, then moved to where the brain holds it.
            masks: in their place label arrays (x, y, z) on the scan's voxels, 0 background, 1 NCR, 2 ED, 3 ET, or a
                folder of label files.
            volumes: ml, rising: a series of each tumour, of one noise, in which each mask holds the last.
            remove: fill the scan's own lesion first.
            margin: mm around the lesion, 4 to 40.
            mass_effect: push tissue within the margin aside.
            stop, faulty, options: as of `generate`.

        Raises:
            FaultySampleError: see `faulty`; a scan without room for its tumour is faulty.
            UsageError: an argument does not exist, is mistyped or out of range, the bundle cannot change a part of a
                scan, or the generator is closed.
            InvalidInputError: the scan, the masks or the rows are broken or do not fit each other; all is named.
            Cancelled: see `stop` and `cancel`.
        """
        given = Path(masks) if isinstance(masks, str | os.PathLike) else masks
        seed = options.get("seed", 0)
        require_fields(count=count, seed=seed)
        wishes = InsertWishes(True, remove, conditions, given, tuple(volumes), margin, mass_effect, count, seed)
        return self._changed(scan, wishes, stop, faulty, options)

    @python_call(SamplingArguments)
    def remove(
        self,
        scan: ScanLike,
        count: int | None = None,
        *,
        margin: float = DEFAULT_MARGIN_MM,
        stop: threading.Event | None = None,
        faulty: Faulty = "raise",
        **options: Unpack[SamplingArguments],
    ) -> Iterator[ChangedScan]:
        """Scans whose lesion is filled with healthy tissue, `count` of them with noise of their own, by default one.

        Arguments and errors as of `insert`; `augment --remove` makes the same, file by file.
        """
        wishes = InsertWishes(False, True, margin_mm=margin, count=count)
        return self._changed(scan, wishes, stop, faulty, options)

    def changed_scans(
        self, request: GenerateRequest, stop: threading.Event | None = None, only: int | None = None
    ) -> Iterator[ChangedScan]:
        """As `samples`, of a request whose source is an `InsertCase`; on the voxels of its scan."""
        case = request.source
        if not isinstance(case, InsertCase):
            raise UsageError("--source: must be a scan whose lesion is changed, see `plan_insert`")
        return self._asked(request, stop, only, lambda sample, volume: ChangedScan(sample, case, _patch(volume)))

    def samples(
        self, request: GenerateRequest, stop: threading.Event | None = None, only: int | None = None
    ) -> Iterator[Sample]:
        """Samples of a request for this bundle, faulty ones with their `fault`; of them `only` one number.

        Raises:
            UsageError: at once, for what can be refused.
            Cancelled: see `generate`.
        """
        return self._asked(request, stop, only, lambda sample, _: sample)

    def _asked(
        self,
        request: GenerateRequest,
        stop: threading.Event | None,
        only: int | None,
        made: Callable[[Sample, Volume], T],
    ) -> Iterator[T]:
        """Samples of a request as `made` gives them."""
        if self._closed:
            raise UsageError("the generator is closed")
        if stop is not None and not callable(getattr(stop, "is_set", None)):
            raise UsageError(f"--stop {stop!r}: must be an event such as threading.Event")
        manifest = self.bundle.manifest
        table = request.table()
        options = request.options(len(table))
        with self._turn:
            loop = fit_batch(
                lambda n: open_loop(self.bundle, self.backend, options, n, request.source),
                self.batch_size,
                _warn_of_memory,
            )
        requests = Requests.of(table, manifest, options.seed)
        numbers = range(options.count) if only is None else [only]
        stops = [self._cancelled] if stop is None else [self._cancelled, stop]
        judged = finisher(self.bundle, options, request.source)

        def finish(task: SampleTask, volume: Volume) -> tuple[T, float | None]:
            sample, off = judged(task, volume)
            return made(sample, volume), off

        return self._made(loop, requests.groups(numbers, loop.options.batch_size), options, stops, finish)

    def cancel(self) -> None:
        """Stop all that is being sampled; what is asked for later runs again."""
        running, self._cancelled = self._cancelled, threading.Event()
        running.set()

    def close(self) -> None:
        """Cancel, and refuse further work."""
        self._closed = True
        self.cancel()

    def __repr__(self) -> str:
        manifest, backend = self.bundle.manifest, self.backend
        made = f"{', '.join(manifest.modalities)}, {' x '.join(map(str, manifest.grid.shape))}"
        machine = f"{backend.name} {backend.precision} on {backend.device}, {counted(backend.threads, 'thread')}"
        closed = ", closed" if self._closed else ""
        return f"<Generator of {manifest.id}: {made}; {machine}, batch size {self.batch_size}{closed}>"

    def __reduce__(self) -> tuple[Callable[..., Generator], tuple[object, ...]]:
        """A pickled generator is its arguments: whoever reads it loads the same bundle on the same kind of backend."""
        if self._closed:
            raise UsageError("the generator is closed")
        backend = self.backend
        machine = (backend.name, backend.device, backend.precision, backend.threads)
        return _load_again, (self.bundle.path.absolute(), self.bundle.sha256, machine, self.batch_size)

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _given(self, masks: Sequence[NDArray[np.integer]], conditions: ConditionsLike) -> GivenMasks:
        require_mask_first(self.bundle)
        grid, columns = self.bundle.manifest.grid, [column.name for column in self.bundle.manifest.condition_columns]
        given = masks_of_arrays(masks, columns, grid)
        return given if conditions is None else edited_masks(given, read_table(conditions, columns, grid.fov_mm), grid)

    def _made(
        self,
        loop: RunLoop,
        groups: Iterator[list[SampleTask]],
        options: RunOptions,
        stops: list[threading.Event],
        finish: Callable[[SampleTask, Volume], tuple[T, float | None]],
    ) -> Iterator[T]:
        def check() -> None:
            if any(stop.is_set() for stop in stops):
                raise Cancelled("sampling was cancelled")

        redraws: Redraws[T] = Redraws(options)
        for group in groups:
            kept: dict[int, T] = {}
            tasks = group
            while tasks:
                volumes = self._volumes(loop, tasks, check)
                judged = [
                    (task.sample, redraws.judge(task, *finish(task, volume)))
                    for task, volume in zip(tasks, volumes, strict=True)
                ]
                kept |= {number: verdict for number, verdict in judged if not isinstance(verdict, SampleTask)}
                tasks = [verdict for _, verdict in judged if isinstance(verdict, SampleTask)]
            yield from (kept[task.sample] for task in group)

    def _volumes(self, loop: RunLoop, tasks: list[SampleTask], check: Callable[[], None]) -> list[Volume]:
        asked = sample_requests(tasks, self.bundle.manifest.condition_columns)
        check()
        with self._turn:
            return loop.start(asked, check)()

    def _changed(
        self,
        scan: ScanLike,
        wishes: InsertWishes,
        stop: threading.Event | None,
        faulty: Faulty,
        options: SamplingArguments,
    ) -> Iterator[ChangedScan]:
        require_faulty(faulty)
        plan = plan_insert(open_scan(scan, self.bundle, ReadOptions()), self.bundle, wishes, ReadOptions())
        request = GenerateRequest(
            bundle=self.bundle, count=plan.count, conditions=plan.conditions, source=plan.case, grid="source", **options
        )
        return _judged(self.changed_scans(request, stop), faulty)


def _patch(volume: Volume) -> Patch | None:
    return volume.patch if isinstance(volume, InsertedVolume) and volume.fault is None else None


def _judged(samples: Iterator[AnySample], faulty: Faulty) -> Iterator[AnySample]:
    """The samples without those that must not be used, see `Generator.generate`."""
    for sample in samples:
        if faulty == "raise":
            sample.require_sound()
        if sample.fault is None or faulty == "keep":
            yield sample


def _load_again(path: Path, sha256: str, machine: tuple[str, str, str, int], batch_size: int) -> Generator:
    backend, device, precision, threads = machine
    generator = Generator.load(
        path, backend=backend, device=device, precision=precision, threads=threads, batch_size=batch_size
    )
    if generator.bundle.sha256 != sha256:
        raise InvalidInputError(f"{path}: is not the bundle that this generator was pickled with")
    return generator


def _warn_of_memory(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _require_batch_size(batch_size: object) -> None:
    if batch_size is None or isinstance(batch_size, str):  # measuring is for runs in a directory
        raise UsageError(f"--batch-size {batch_size!r}: must be a whole number")
    require_fields(batch_size=batch_size)

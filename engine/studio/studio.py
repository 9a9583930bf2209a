"""What the page asks for, without HTTP: wishes are checked and made, masks and scans taken, baskets written out."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..bundle.load import Bundle
from ..bundle.manifest import SEGMENTATION
from ..errors import InvalidInputError, SbldmError, UsageError
from ..generator import Generator
from ..report.words import quantities
from ..run.request import GenerateRequest
from ..sample import FaultySampleError
from ..sampling.insert_case import InsertCase
from ..sampling.types import Backend
from ..scans.options import ReadOptions
from .basket import OUT, Basket, Group, Takeaway, groups, ranges, tables, takeaway
from .facts import model_facts
from .given import GivenStore, Own, read_own
from .made import CENTRE_MM, Files, Made, file_of_scan, file_on_grid, made_of, picture, view_of_case, view_of_scan
from .maker import Maker
from .received import Received
from .runs import BasketRun, Part, Setup
from .wish import Checked, Wish, check

FIRST = Wish.model_validate({})
"""The wish that a page begins with: everything drawn."""
MOST_RUNS = 16  # of pages, that are remembered
_WARM = ("", "")  # the pane of what is made before a page asks
LOOK_S = 30.0  # between two looks for pages that are silent


class Studio:
    """One model, ready; pages share it and take turns. Use as a context manager."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.maker, self.given = generator, Maker(), GivenStore()
        self._runs: dict[str, BasketRun] = {}  # the latest of each page
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._first: threading.Thread | None = None

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self.generator.bundle

    def __enter__(self) -> Studio:
        threading.Thread(target=self._look_for_silent_pages, name="silent pages", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.maker.close()
        self.generator.close()
        for run in self._runs.values():
            run.stop()
        if self._first is not None:  # an interpreter that ends while networks are loaded ends by a signal
            self._first.join()

    def warm(self) -> None:
        """Begin with the volume that a page asks for first."""

        def make() -> None:
            with suppress(SbldmError, MemoryError):  # the page that asks is told
                self.maker.make(self.key(FIRST), _WARM, lambda stop: self._made(FIRST, None, stop))

        self._first = threading.Thread(target=make, name="first volume", daemon=True)
        self._first.start()

    def facts(self) -> dict[str, Any]:
        """What the page needs to know of the model."""
        return model_facts(self.generator)

    def check(self, wish: Wish) -> Checked:
        """What is known of a wish before it is made."""
        return check(wish, self.bundle)

    def make(self, page: str, pane: str, wish: Wish) -> Made:
        """The volume of a wish; a newer wish of the same pane ends this one.

        Raises:
            InvalidInputError: what contradicts itself, or a dropped file that is held no more.
            UsageError: steps that the schedule does not have.
            Cancelled, FaultySampleError: there is no volume.
        """
        own = self._own(page, wish)
        return self.maker.make(self.key(wish), (page, pane), lambda stop: self._made(wish, own, stop), wish.given)

    def here(self, page: str) -> list[str]:
        """A page says that it is still open; ids of what is held for it."""
        self.given.heard(page)
        return self.given.of(page)

    def take(self, page: str, folder: Path, received: Received, options: ReadOptions) -> str:
        """Hold what was dropped, and give its id; the folder may go afterwards. Errors as `read_own`."""
        return self.given.add(page, read_own(folder, received, self.bundle, options))

    def given_facts(self, page: str, given: str) -> dict[str, Any]:
        """What the page shows of what was dropped; `grid`, `own`: the view of it on the model's voxels and its own."""
        own, manifest = self.given.get(page, given), self.bundle.manifest
        told: dict[str, Any] = {"id": given, "name": own.name, "starts": own.starts, "warnings": own.warnings}
        if own.mask is not None:
            kinds = quantities([column.name for column in manifest.condition_columns], manifest.grid)
            row = own.mask.conditions.at(0)[1]
            told["measured"] = [
                {"name": kind.name, "unit": kind.unit, "made": kind.text(float(value))}
                for kind, value in zip(kinds, row, strict=True)
            ]
        if own.case is not None:
            told["grid"] = view_of_case(own.case, self.bundle)
        if own.scan is not None:
            told["own"] = view_of_scan(own.scan, self.bundle)
        return told

    def given_file(self, page: str, given: str, where: str, role: str) -> bytes | None:
        """A file of what was dropped, for the viewer: on the model's voxels (`grid`) or its own (`own`)."""
        own, manifest = self.given.get(page, given), self.bundle.manifest
        if role not in (*manifest.modalities, SEGMENTATION):
            return None
        if where == "own":
            return None if own.scan is None else file_of_scan(own.scan, role, self.bundle)
        if own.case is None:
            return None
        volume = None if role == SEGMENTATION else own.case.image[manifest.modalities.index(role)]
        return file_on_grid(volume, own.case.label, self.bundle)

    def given_picture(self, page: str, given: str, where: str) -> bytes | None:
        """Sections of it as a PNG."""
        files: Files = {}
        for role in (*self.bundle.manifest.modalities, SEGMENTATION):
            data = self.given_file(page, given, where, role)
            if data is None:
                return None
            files[role] = data
        return picture(files, self.given.get(page, given).name, "from a real case", self.bundle)

    def takeaway(self, basket: Basket) -> Takeaway:
        """Tables, commands and snippet of a basket; InvalidInputError as `basket.groups`."""
        return takeaway(basket, self.bundle, self.generator.backend)

    def run(self, page: str, basket: Basket, out: str) -> BasketRun:
        """Make a basket's run directories in a process of its own; one at a time a page.

        Raises:
            UsageError: no directory is named, or the one before is still being made.
            InvalidInputError: see `basket.groups`.
        """
        if not out.strip():
            raise UsageError("name the directory that the run is to be written to")
        target = _directory(out.strip())
        found = groups(basket, self.bundle)
        texts = {_beside(target, name): text for name, text in tables(basket, found, self.bundle).items()}
        parts = tuple(self._part(page, group, target, len(basket.rows)) for group in found)
        with self._lock:
            before = self._runs.get(page)
            if before is not None and before.state == "running":
                raise UsageError("the run before is still being made; wait for it, or stop it")
            self._runs.pop(page, None)
            ended = [one for one, run in self._runs.items() if run.state != "running"]
            for one in ended[: max(0, len(self._runs) - MOST_RUNS + 1)]:
                del self._runs[one]
            self._runs[page] = BasketRun(Setup(self.bundle.path.absolute(), parts), texts)
            return self._runs[page]

    def run_of(self, page: str) -> BasketRun | None:
        """The latest run of a page."""
        return self._runs.get(page)

    def leave(self, page: str) -> None:
        """A page was closed: what it waits for, what it dropped and what came of that is given up; its run goes on."""
        self.maker.leave(page)
        self.maker.forget(self.given.drop(page))

    def key(self, wish: Wish) -> str:
        """What the volume of a wish is kept under."""
        sampling = wish.sampling(self.bundle.manifest)
        cells = {name: text.strip() for name, text in wish.cells.items() if text.strip() and wish.has_row}
        how = {"steps": sampling.steps, "guidance": sampling.guidance}
        filled = {**how, "cells": dict(sorted(cells.items()))}
        plain = wish.model_copy(update=filled)
        return hashlib.sha256(plain.model_dump_json().encode()).hexdigest()

    def _look_for_silent_pages(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.maker.forget(self.given.forget_silent())

    def _own(self, page: str, wish: Wish) -> Own | None:
        if wish.start == "drawn":
            return None
        if wish.given is None:
            raise InvalidInputError("drop a mask or scan first")
        return self.given.get(page, wish.given)

    def _made(self, wish: Wish, own: Own | None, stop: threading.Event) -> Made:
        began = time.monotonic()
        checked = self._checked(wish) if wish.has_row else None
        source = None if own is None else own.source(wish, self.bundle)
        rows = None if checked is None else [wish.numbers()]
        options: dict[str, Any] = {"seed": wish.seed, "steps": wish.steps, "guidance": wish.guidance}
        is_scan = isinstance(source, InsertCase)
        request = GenerateRequest(
            bundle=self.bundle, count=wish.number + 1, conditions=rows, source=source,
            grid="source" if is_scan else "native", **options,
        )  # fmt: skip
        made = self.generator.changed_scans if is_scan else self.generator.samples
        centre = source.voxels.centre_mm if isinstance(source, InsertCase) else CENTRE_MM
        sample = next(made(request, stop, wish.number))
        if sample.fault is not None:
            raise FaultySampleError(f"There is no volume of this wish: {sample.fault}")
        drawn = () if checked is None else checked.drawn
        return made_of(self.key(wish), sample, wish, drawn, time.monotonic() - began, centre)

    def _checked(self, wish: Wish) -> Checked:
        checked = self.check(wish)
        if checked.faults:
            raise InvalidInputError("\n".join(checked.faults))
        return checked

    def _part(self, page: str, group: Group, target: Path, rows: int) -> Part:
        backend: Backend = self.generator.backend
        own, run = self._own(page, group.wish), group.run
        source = None if own is None else own.source(group.wish, self.bundle)
        options = {
            "seed": run.seed, "steps": run.steps, "guidance": run.guidance, "backend": backend.name,
            "device": backend.device, "precision": backend.precision, "batch_size": 1, "threads": backend.threads,
            "grid": "source" if isinstance(source, InsertCase) else "native",
        }  # fmt: skip
        table = None if group.table is None else _beside(target, group.table)
        samples, count = ranges(group.samples), rows if table is None else None
        return Part(_beside(target, group.out), table, samples, count, source, options)


def _directory(out: str) -> Path:
    """The run directory of this name.

    Raises:
        UsageError: no path, the root, or a file.
    """
    try:
        target = Path(os.path.normpath(Path(out).expanduser().absolute()))
        is_usable = "\0" not in out and target.name != "" and (target.is_dir() or not target.exists())
    except (RuntimeError, OSError) as error:  # an unknown user, too long a name
        raise UsageError(f"{out!r}: cannot be a directory ({error})") from error
    if not is_usable:
        raise UsageError(f"{out!r}: cannot be the directory of a run; name another one")
    return target


def _beside(target: Path, name: str) -> Path:
    """What a basket calls `basket...`, where its run directory is `target`."""
    return target.with_name(target.name + name.removeprefix(OUT))

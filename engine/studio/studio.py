"""What the page asks for, without HTTP: wishes are checked and made, masks and scans taken, baskets written out."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.load import Bundle
from ..bundle.manifest import SEGMENTATION
from ..bundle.report import usual_range
from ..conditions.rules import column_ranges
from ..conditions.unusual import column_ranges as cohort_ranges
from ..errors import InvalidInputError, SbldmError, UsageError
from ..generator import Generator
from ..output.layouts import make_layout
from ..output.preview import TISSUE_COLOURS
from ..report.words import modality_name, quantities, tissue_names
from ..run.options import most_steps
from ..run.request import GenerateRequest, Source
from ..sampling.given_masks import GivenMasks
from ..sampling.types import Backend
from ..scans.options import ReadOptions
from ..versions import installed
from .basket import Basket, Group, Takeaway, basket_table, groups, ranges, takeaway
from .given import Given, GivenStore, read_given
from .made import Made, made_of, view, viewed
from .maker import Maker
from .runs import BasketRun, Part, Setup
from .wish import Checked, Wish, check

FIRST = Wish.model_validate({})
"""The wish that a page begins with: everything drawn."""
_WARM = ("", "")  # the pane of what is made before a page asks


class Studio:
    """One model, ready; pages share it and take turns. Use as a context manager."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.maker, self.given = generator, Maker(), GivenStore()
        self._runs: dict[str, BasketRun] = {}  # the latest of each page
        self._lock = threading.Lock()

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self.generator.bundle

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self.maker.close()
        self.generator.close()
        for run in self._runs.values():
            run.stop()

    def warm(self) -> None:
        """Begin with the volume that a page asks for first."""

        def make() -> None:
            with suppress(SbldmError, MemoryError):  # the page that asks is told
                self.maker.make(self.key(FIRST), _WARM, lambda stop: self._made(FIRST, None, stop))

        threading.Thread(target=make, name="first volume", daemon=True).start()

    def facts(self) -> dict[str, Any]:
        """What the page needs to know of the model."""
        manifest, grid = self.bundle.manifest, self.bundle.manifest.grid
        layout = make_layout("brats", manifest.modalities, manifest.labels)
        colours = TISSUE_COLOURS[1:].astype(int).tolist()
        tissues = [
            {"name": name, "value": int(layout.label_values[k + 1]), "colour": colours[k % len(colours)]}
            for k, name in enumerate(tissue_names(manifest.labels))
        ]
        return {
            "model": manifest.id, "version": installed("sbldm-engine"), "form": manifest.form, "mask": SEGMENTATION,
            "takes_masks": manifest.mask_first is not None, "cases": manifest.cohort.cases,
            "data": manifest.provenance.data, "use": manifest.intended_use,
            "modalities": [{"key": name, "name": modality_name(name)} for name in manifest.modalities],
            "tissues": tissues, "columns": self._columns(), "fov_mm": list(grid.fov_mm),
            "voxels": list(grid.shape), "defaults": vars(manifest.defaults), "most_steps": most_steps(manifest),
            "backend": f"{self.generator.backend.name} on {self.generator.backend.device}",
            "directory": str(Path.cwd()),
        }  # fmt: skip

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
        given = None if wish.given is None else self.given.get(page, wish.given)
        return self.maker.make(self.key(wish), (page, pane), lambda stop: self._made(wish, given, stop))

    def take(self, page: str, folder: Path, names: list[str], options: ReadOptions) -> Given:
        """Hold what was dropped; the folder may go afterwards. Errors as `read_given`."""
        name, source, warnings = read_given(folder, names, self.bundle, options)
        return self.given.add(page, name, source, warnings)

    def given_facts(self, given: Given) -> dict[str, Any]:
        """What the page shows of what was dropped."""
        manifest, source = self.bundle.manifest, given.source
        kinds = quantities([column.name for column in manifest.condition_columns], manifest.grid)
        told: dict[str, Any] = {
            "id": given.id, "name": given.name, "kind": "mask" if given.is_mask else "case", "warnings": given.warnings,
        }  # fmt: skip
        if isinstance(source, GivenMasks):
            row = source.conditions.at(0)[1]
            return told | {"measured": [
                {"name": kind.name, "unit": kind.unit, "made": kind.text(float(value))}
                for kind, value in zip(kinds, row, strict=True)
            ]}  # fmt: skip
        return told | view(source.image, source.label, manifest.grid, manifest.modalities)

    def given_files(self, given: Given) -> dict[str, bytes]:
        """What was dropped, on the model's grid, for the viewer."""
        source = given.source
        if isinstance(source, GivenMasks):
            return viewed(np.zeros((0, *source.shape), np.int16), source.label(0), self.bundle)
        return viewed(source.image, source.label, self.bundle)

    def takeaway(self, basket: Basket) -> Takeaway:
        """Table, commands and snippet of a basket; InvalidInputError as `basket.groups`."""
        return takeaway(basket, self.bundle, self.generator.backend)

    def run(self, page: str, basket: Basket, out: str) -> BasketRun:
        """Make a basket's run directories in a process of its own; one at a time a page.

        Raises:
            UsageError: no directory is named, or the one before is still being made.
            InvalidInputError: see `basket.groups`.
        """
        if not out.strip():
            raise UsageError("name the directory that the run is to be written to")
        target = Path(out.strip()).expanduser().absolute()
        text, found = basket_table(basket, self.bundle), groups(basket, self.bundle)
        places = [target if k == 0 else target.with_name(f"{target.name}-{k + 1}") for k in range(len(found))]
        parts = tuple(
            self._part(page, group, place, len(basket.rows)) for group, place in zip(found, places, strict=True)
        )
        with self._lock:
            before = self._runs.get(page)
            if before is not None and before.state == "running":
                raise UsageError("the run before is still being made; wait for it, or stop it")
            setup = Setup(self.bundle.path.absolute(), target.with_name(f"{target.name}.csv"), parts)
            self._runs[page] = BasketRun(setup, text)
            return self._runs[page]

    def run_of(self, page: str) -> BasketRun | None:
        """The latest run of a page."""
        return self._runs.get(page)

    def leave(self, page: str) -> None:
        """A page was closed: what it waits for and what it dropped is given up; its run goes on."""
        self.maker.leave(page)
        self.given.drop(page)

    def key(self, wish: Wish) -> str:
        """What the volume of a wish is kept under."""
        defaults = self.bundle.manifest.defaults
        guidance = defaults.guidance if wish.guidance is None else wish.guidance
        cells = {name: text.strip() for name, text in wish.cells.items() if text.strip()}
        filled = {"steps": wish.steps or defaults.steps, "guidance": guidance, "cells": dict(sorted(cells.items()))}
        plain = wish.model_copy(update=filled)
        return hashlib.sha256(plain.model_dump_json().encode()).hexdigest()

    def _columns(self) -> list[dict[str, Any]]:
        manifest = self.bundle.manifest
        names = [column.name for column in manifest.condition_columns]
        allowed = column_ranges(names, manifest.grid.fov_mm)
        theirs = cohort_ranges(manifest.cohort)
        usual = {column.name: usual_range(column) for column in manifest.condition_columns}
        return [
            {
                "name": kind.column, "title": kind.name, "unit": kind.unit, "factor": kind.factor,
                "offset": kind.offset, "allowed": str(allowed[kind.column]), "low": float(theirs[k, 0]),
                "high": float(theirs[k, 1]), "usual": usual[kind.column],
                "most": float(min(allowed[kind.column].high, 1e9)),
            }
            for k, kind in enumerate(quantities(names, manifest.grid))
        ]  # fmt: skip

    def _made(self, wish: Wish, given: Given | None, stop: threading.Event) -> Made:
        began = time.monotonic()
        source = None if given is None else given.at(wish.strength)
        checked = self._checked(wish) if not isinstance(source, GivenMasks) else None
        options: dict[str, Any] = {"seed": wish.seed, "steps": wish.steps, "guidance": wish.guidance}
        rows = None if checked is None else [_numbers(wish)]
        request = GenerateRequest(
            bundle=self.bundle, count=wish.number + 1, conditions=rows, source=source, **options
        )  # fmt: skip
        sample = next(self.generator.samples(request, stop, wish.number))
        drawn = () if checked is None else checked.drawn
        return made_of(self.key(wish), sample, drawn, time.monotonic() - began)

    def _checked(self, wish: Wish) -> Checked:
        checked = self.check(wish)
        if checked.faults:
            raise InvalidInputError("\n".join(checked.faults))
        return checked

    def _part(self, page: str, group: Group, out: Path, rows: int) -> Part:
        backend: Backend = self.generator.backend
        source: Source | None = None
        if group.given is not None:
            source = self.given.get(page, group.given).at(group.strength)
        options = {
            "seed": group.seed, "steps": group.steps, "guidance": group.guidance, "backend": backend.name,
            "device": backend.device, "precision": backend.precision, "batch_size": 1, "threads": backend.threads,
        }  # fmt: skip
        return Part(out, ranges(group.samples), rows if group.kind == "mask" else None, source, options)


def _numbers(wish: Wish) -> dict[str, float | str]:
    """The cells of a checked wish as numbers."""
    return {name: float(text) for name, text in wish.cells.items() if text.strip()}

"""Variants of the masks of a folder, each on the voxels of its mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, ornt_transform
from numpy.typing import NDArray

from ..anatomy.draw import Field
from ..anatomy.typical import typical_brain
from ..errors import InvalidInputError
from ..masks.vary import EDITS, Edit, Variant, VariantFault, largest_piece, varied
from ..output.measure import TumourMeasurement, measure_tumour
from ..sampling.slabs import brain_of
from .cases import CaseFiles, Discovery
from .discover import discover_cases
from .measure import one_label_note
from .options import ReadOptions
from .placement import RasGrid
from .read import CaseError, RawCase, decode_case, read_contents

INSIDE = 0.95  # share of a mask that must lie in the brain of its images
_RAS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])


@dataclass(frozen=True)
class MaskVariant:
    """One variant of one mask."""

    case: str
    number: int  # of the variant of this mask, from 1
    label: NDArray[np.uint8]  # (x, y, z) in the order of the file
    affine: NDArray[np.float64]
    what: Variant
    before: TumourMeasurement
    measured: TumourMeasurement


@dataclass(frozen=True)
class _Mask:
    case: str
    label: NDArray[np.uint8]  # RAS
    brain: NDArray[np.bool_]
    grid: RasGrid
    affine: NDArray[np.float64]


class MaskFolder:
    """The masks of a folder; nothing is written.

    Raises:
        InvalidInputError: no mask, or faulty ones: all are named.
    """

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        self.folder, self._options = folder, options
        self._found: Discovery = discover_cases(folder, (), options)
        self.warnings = list(self._found.notes)
        faults, values = [*self._told(self._found.faults)], list[tuple[int, ...]]()
        for case in self._found.cases:
            if case.name in self._found.faults:
                continue
            try:
                values.append(self._read(case, self.warnings)[1])
            except (CaseError, InvalidInputError) as error:
                faults += self._told({case.name: getattr(error, "faults", [str(error)])})
        if faults:
            raise InvalidInputError("\n".join(faults))
        note = one_label_note(values)
        if note is not None and not any(case.meaning.is_told for case in self._found.cases):
            raise InvalidInputError(f"{folder}: {note}")

    def __len__(self) -> int:
        return len(self._found.cases)

    def variants(
        self, count: int, seed: int, edits: Sequence[Edit] = EDITS, change_ml: tuple[float, float] | None = None
    ) -> Iterator[MaskVariant]:
        """`count` variants of every mask, by name, then number; those of a mask depend on its name and the seed alone.

        Raises:
            InvalidInputError: a mask has no variant inside its brain.
        """
        for case in self._found.cases:
            mask = self._read(case, [])[0]
            own = int.from_bytes(hashlib.sha256(f"{seed} {case.name}".encode()).digest()[:8], "little")
            before = measure_tumour(mask.label, mask.grid.spacing_mm, mask.brain)
            for number in range(1, count + 1):
                try:
                    made = varied(mask.label, mask.brain, mask.grid.spacing_mm, own, number, edits, change_ml)
                except VariantFault as fault:
                    raise InvalidInputError(
                        f"{self.folder}: {case.name}: {fault}; leave edits out by --edits"
                    ) from fault
                label = apply_orientation(made.label, ornt_transform(_RAS, mask.grid.orientation))
                measured = measure_tumour(made.label, mask.grid.spacing_mm, mask.brain)
                yield MaskVariant(case.name, number, np.ascontiguousarray(label), mask.affine, made, before, measured)

    def _told(self, faults: dict[str, list[str]]) -> list[str]:
        return [f"{self.folder}: {name}: {text}" for name, texts in sorted(faults.items()) for text in texts]

    def _read(self, case: CaseFiles, warnings: list[str]) -> tuple[_Mask, tuple[int, ...]]:
        wanted = () if case.reference is None else (case.reference,)
        raw = decode_case(case, wanted, read_contents(case, wanted), self._options)
        if case.meaning.is_binary:
            raise CaseError(["its mask has one label for the whole tumour; variants tell NCR, ED and ET apart"])
        grid = RasGrid.of(raw.affine, raw.label.shape)
        whole = np.ascontiguousarray(grid.turn(raw.label))
        label = largest_piece(whole)
        warnings += [f"{case.name}: {text}" for text in raw.mask.warnings]
        if lost := np.count_nonzero(whole) - np.count_nonzero(label):
            share = 100 * lost / np.count_nonzero(whole)
            warnings.append(
                f"{case.name}: {share:.3g} % of its mask is in smaller pieces; variants are of the largest one"
            )
        return _Mask(case.name, label, _brain(case, raw, grid, label), grid, raw.affine), raw.mask.values


def _brain(case: CaseFiles, raw: RawCase, grid: RasGrid, label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    if case.reference is None:
        x, y, z = grid.shape
        return typical_brain(Field((x, y, z), grid.spacing_mm)) | (label > 0)
    seen = grid.turn(raw.images[case.reference] != 0)
    inside = np.count_nonzero(seen & (label > 0)) / np.count_nonzero(label)
    if inside < INSIDE:
        raise CaseError([f"{100 * (1 - inside):.3g} % of its mask lies outside the brain of {case.reference}, at most "
                         f"{100 * (1 - INSIDE):.3g} % may"])  # fmt: skip
    return brain_of(seen, label)

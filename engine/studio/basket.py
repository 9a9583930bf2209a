"""What was kept, as things to take along: a condition table, the commands, a Python snippet."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..bundle.load import Bundle, is_shipped
from ..errors import InvalidInputError
from ..sampling.types import Backend
from .wish import Wish, parsed, table

TABLE, OUT, MASKS, CASE = "basket.csv", "basket", "MASKS", "CASE"
MOST_ROWS = 1000
Kind = Literal["drawn", "mask", "case"]
GroupKey = tuple[Kind, str, float, int, int, float]


class BasketRow(BaseModel):
    """A row of the basket: row k is sample k of its run; one that was taken out keeps its place."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(max_length=64)
    wish: Wish
    given_name: str = Field("", max_length=100)
    given_kind: Literal["", "mask", "case"] = ""
    out: bool = False


class Basket(BaseModel):
    """All rows, in order."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: list[BasketRow] = Field(max_length=MOST_ROWS)


@dataclass(frozen=True)
class Group:
    """Rows that one run makes: all with the same start, seed and options."""

    kind: Kind
    name: str  # of the mask or scan
    strength: float
    seed: int
    steps: int
    guidance: float
    samples: tuple[int, ...]
    given: str | None  # of the page


def groups(basket: Basket, bundle: Bundle) -> list[Group]:
    """The runs of a basket; InvalidInputError where it is empty, or a row does not stand in its place."""
    defaults = bundle.manifest.defaults
    found: dict[GroupKey, list[int]] = {}
    given: dict[GroupKey, str | None] = {}
    for number, row in enumerate(basket.rows):
        if row.wish.number != number:
            raise InvalidInputError(f"row {number} of the basket is sample {row.wish.number}; it must be {number}")
        if row.out:
            continue
        kind: Kind = row.given_kind or "drawn"
        strength = row.wish.strength if kind == "case" else 0.0
        guidance = defaults.guidance if row.wish.guidance is None else row.wish.guidance
        key = (kind, row.given_name, strength, row.wish.seed, row.wish.steps or defaults.steps, guidance)
        found.setdefault(key, []).append(number)
        given.setdefault(key, row.wish.given)
    if not found:
        raise InvalidInputError("the basket is empty; keep a volume first")
    return [Group(*key, tuple(samples), given[key]) for key, samples in found.items()]


def basket_table(basket: Basket, bundle: Bundle) -> str:
    """The condition table of all rows, checked as the command line will; InvalidInputError with all faults."""
    columns = [column.name for column in bundle.manifest.condition_columns]
    rows = [(row.id, {} if row.out or row.given_kind == "mask" else row.wish.cells) for row in basket.rows]
    text = table(rows, columns)
    parsed(text, bundle)
    return text


@dataclass(frozen=True)
class Takeaway:
    """What the page offers for a basket."""

    csv: str
    commands: list[str]
    python: str
    notes: list[str]


def takeaway(basket: Basket, bundle: Bundle, backend: Backend) -> Takeaway:
    """Table, commands and snippet that make what was seen again, byte for byte on this machine."""
    found = groups(basket, bundle)
    outs = [OUT if k == 0 else f"{OUT}-{k + 1}" for k in range(len(found))]
    commands = [
        shlex.join(_words(group, bundle, backend, len(basket.rows), out))
        for group, out in zip(found, outs, strict=True)
    ]
    notes = []
    if any(group.kind == "mask" for group in found):
        notes.append(f"{MASKS}: a folder that holds the mask alone, named CASE_seg.nii.gz")
    if any(group.kind == "case" for group in found):
        notes.append(f"{CASE}: the folder of the scan")
    return Takeaway(basket_table(basket, bundle), commands, _snippet(found, outs, bundle, backend), notes)


def _words(group: Group, bundle: Bundle, backend: Backend, rows: int, out: str) -> Iterator[str]:
    yield "sbldm-engine"
    if group.kind == "case":
        yield from ("augment", CASE, "--strength", repr(group.strength), "--conditions", TABLE)
    elif group.kind == "mask":
        yield from ("generate", "--masks", MASKS, "--count", str(rows))
    else:
        yield from ("generate", "--conditions", TABLE)
    if len(group.samples) < rows:
        yield from ("--samples", ranges(group.samples))
    yield from ("--bundle", bundle_word(bundle), "--seed", str(group.seed), "--steps", str(group.steps))
    yield from ("--guidance", repr(group.guidance), "--backend", backend.name, "--device", backend.device)
    yield from ("--precision", backend.precision, "--batch-size", "1", "--threads", str(backend.threads))
    yield from ("--out", out)


def _snippet(found: Sequence[Group], outs: Sequence[str], bundle: Bundle, backend: Backend) -> str:
    machine = f'backend="{backend.name}", device="{backend.device}", precision="{backend.precision}"'
    lines = [
        "import sbldm",
        "",
        f"with sbldm.load({bundle_word(bundle)!r}, {machine}, threads={backend.threads}) as generator:",
    ]
    for group, out in zip(found, outs, strict=True):
        if group.kind != "drawn":
            lines.append(f"    # samples {ranges(group.samples)} start from {group.name}: by the command")
            continue
        options = f"seed={group.seed}, steps={group.steps}, guidance={group.guidance!r}"
        lines += [
            f"    for number in {group.samples!r}:",
            f'        sample = generator.sample(number, conditions="{TABLE}", {options})',
            f'        sample.save("{out}")',
            "        print(sample)",
        ]
    if all(group.kind != "drawn" for group in found):
        lines.append("    pass")
    return "\n".join(lines) + "\n"


def bundle_word(bundle: Bundle) -> str:
    """What `--bundle` takes for it."""
    return bundle.path.name if is_shipped(bundle) else str(bundle.path.absolute())


def ranges(samples: Sequence[int]) -> str:
    """Sorted numbers as `--samples` takes them: 0-2,5."""
    if not samples:
        return ""
    breaks = [k + 1 for k, (a, b) in enumerate(pairwise(samples)) if b != a + 1]
    parts = [samples[a:b] for a, b in zip([0, *breaks], [*breaks, len(samples)], strict=True)]
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)

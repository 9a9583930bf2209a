"""What was kept, as things to take along: condition tables, the commands, a Python snippet."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from ..bundle.load import Bundle, is_shipped
from ..errors import InvalidInputError
from ..sampling.types import Backend
from .wish import Start, Wish, parsed, table

TABLE, OUT, MASKS, SCAN = "basket.csv", "basket", "MASKS", "SCAN"
MOST_ROWS = 1000


class Reading(BaseModel):
    """How a mask or scan was read, as the command line spells it; empty: as the files say."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    labels: str = Field("", max_length=200)
    cavity: str = Field("", max_length=20)
    orientation: str = Field("", max_length=10)
    map: str = Field("", max_length=400)

    def words(self) -> Iterator[str]:
        """The options that are given."""
        for name, value in self:
            if value:
                yield from (f"--{name}", value)


class BasketRow(BaseModel):
    """A row of the basket: row k is sample k of its run; one that was taken out keeps its place."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(max_length=64)
    wish: Wish
    given_name: str = Field("", max_length=100)
    reading: Reading = Reading()  # type: ignore[call-arg]
    out: bool = False


class Basket(BaseModel):
    """All rows, in order."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: list[BasketRow] = Field(max_length=MOST_ROWS)


@dataclass(frozen=True)
class Run:
    """What all rows share that one run makes."""

    start: Start
    name: str  # of the mask or scan
    reading: Reading
    strength: float
    seed: int
    steps: int
    guidance: float


@dataclass(frozen=True)
class Group:
    """The rows of one run."""

    run: Run
    number: int  # of the run, from 0
    samples: tuple[int, ...]
    wish: Wish  # of its first row: what the run starts from
    table: str | None  # name of its condition table

    @property
    def out(self) -> str:
        """Its directory."""
        return OUT if self.number == 0 else f"{OUT}-{self.number + 1}"


def groups(basket: Basket, bundle: Bundle) -> list[Group]:
    """The runs of a basket; InvalidInputError where it is empty, or a row does not stand in its place."""
    found: dict[Run, list[int]] = {}
    for number, row in enumerate(basket.rows):
        if row.wish.number != number:
            raise InvalidInputError(f"row {number} of the basket is sample {row.wish.number}; it must be {number}")
        if not row.out:
            found.setdefault(_run(row, bundle), []).append(number)
    if not found:
        raise InvalidInputError("the basket is empty; keep a volume first")
    return [
        Group(run, k, tuple(samples), basket.rows[samples[0]].wish, _table_name(run, k))
        for k, (run, samples) in enumerate(found.items())
    ]


def _run(row: BasketRow, bundle: Bundle) -> Run:
    wish, sampling = row.wish, row.wish.sampling(bundle.manifest)
    strength = wish.strength if wish.start == "change" else 0.0
    return Run(
        wish.start, row.given_name, row.reading, strength, wish.seed, sampling.steps, sampling.guidance
    )  # fmt: skip


def _table_name(run: Run, number: int) -> str | None:
    """Rows of a lesion are held to their scan, so they have a table of their own; masks have none."""
    if run.start in ("mask", "remove"):
        return None
    if run.start in ("insert", "replace"):
        return f"{OUT}-scan-{number + 1}.csv" if number else f"{OUT}-scan.csv"
    return TABLE


def tables(basket: Basket, found: Sequence[Group], bundle: Bundle) -> dict[str, str]:
    """The condition tables by name, checked as the command line will; InvalidInputError with all faults.

    All rows stand in each, in their order; those of other tables are empty.
    """
    columns = [column.name for column in bundle.manifest.condition_columns]
    rows: dict[str, set[int]] = {}
    for group in found:
        if group.table is not None:
            rows.setdefault(group.table, set()).update(group.samples)
    made = {}
    for name, own in (rows or {TABLE: set[int]()}).items():
        cells = [(row.id, row.wish.cells if k in own else {}) for k, row in enumerate(basket.rows)]
        made[name] = table(cells, columns)
        parsed(made[name], bundle)
    return made


@dataclass(frozen=True)
class Takeaway:
    """What the page offers for a basket."""

    tables: dict[str, str]
    commands: list[str]
    python: str
    notes: list[str]


def takeaway(basket: Basket, bundle: Bundle, backend: Backend) -> Takeaway:
    """Tables, commands and snippet that make what was seen again, byte for byte on this machine."""
    found = groups(basket, bundle)
    commands = [shlex.join(_words(group, bundle, backend, len(basket.rows))) for group in found]
    starts = {group.run.start for group in found}
    notes = []
    if "mask" in starts:
        notes.append(f"{MASKS}: a folder that holds the mask alone, named CASE_seg.nii.gz")
    if starts - {"mask", "drawn"}:
        notes.append(f"{SCAN}: the folder of the scan")
    return Takeaway(tables(basket, found, bundle), commands, _snippet(found, bundle, backend), notes)


def _words(group: Group, bundle: Bundle, backend: Backend, rows: int) -> Iterator[str]:
    run = group.run
    yield "sbldm-engine"
    if run.start == "mask":
        yield from ("generate", "--masks", MASKS)
    elif run.start == "drawn":
        yield "generate"
    else:
        yield from ("augment", SCAN)
    if run.start == "change":
        yield from ("--strength", repr(run.strength))
    if run.start in ("insert", "replace"):
        yield "--insert"
    if run.start in ("replace", "remove"):
        yield "--remove"
    yield from ("--count", str(rows)) if group.table is None else ("--conditions", group.table)
    if len(group.samples) < rows:
        yield from ("--samples", ranges(group.samples))
    yield from run.reading.words()
    yield from ("--bundle", bundle_word(bundle), "--seed", str(run.seed), "--steps", str(run.steps))
    yield from ("--guidance", repr(run.guidance), "--backend", backend.name, "--device", backend.device)
    yield from ("--precision", backend.precision, "--batch-size", "1", "--threads", str(backend.threads))
    yield from ("--out", group.out)


def _snippet(found: Sequence[Group], bundle: Bundle, backend: Backend) -> str:
    machine = f'backend="{backend.name}", device="{backend.device}", precision="{backend.precision}"'
    lines = [
        "import sbldm",
        "",
        f"with sbldm.load({bundle_word(bundle)!r}, {machine}, threads={backend.threads}) as generator:",
    ]
    for group in found:
        run = group.run
        if run.start != "drawn":
            lines.append(f"    # samples {ranges(group.samples)} start from {run.name}: by the command")
            continue
        options = f"seed={run.seed}, steps={run.steps}, guidance={run.guidance!r}"
        lines += [
            f"    for number in {group.samples!r}:",
            f'        sample = generator.sample(number, conditions="{group.table}", {options})',
            f'        sample.save("{group.out}")',
            "        print(sample)",
        ]
    if all(group.run.start != "drawn" for group in found):
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

"""The page: a template filled with what was gathered, piece by piece, so that memory holds one case at a time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..bundle.load import Bundle
from ..bundle.manifest import SEGMENTATION
from ..conditions.adherence import adherence
from ..folder import Folder
from ..output.preview import TISSUE_COLOURS
from ..run.ledger import SampleRecord
from ..run.outcomes import VOLUME_TOLERANCE
from ..run.preview import caption
from ..screen import shown
from .card import model_card
from .cohort import Compared
from .command import Recipe
from .facts import MAX_LISTED, RunFacts
from .plots import MAX_POINTS, scatter
from .viewer import NIIVUE, NIIVUE_VERSION, asset
from .volumes import MAX_CASE_BYTES, CaseVolumes, embed_case
from .words import Quantity, modality_name, tissue_names

MAX_ROWS = 1000
"""Of the table of samples; manifest.csv has all."""
_HERE = Path(__file__).parent
_SCRIPTS = (NIIVUE, "viewer.js", "report.js")
_STYLE, _LICENCES = "report.css", "niivue-LICENSES.txt"


@dataclass(frozen=True)
class CaseView:
    """A case of the viewer."""

    sample: int
    id: str
    rows: list[tuple[str, str, str, str, str, bool]]  # name, unit, requested, measured, difference, whether drawn
    facts: list[tuple[str, str]]
    command: str
    volumes: CaseVolumes
    text: str


@dataclass(frozen=True)
class Adherence:
    """How one quantity came out."""

    quantity: Quantity
    r: str
    error: str
    relative: str
    samples: int
    plot: Markup | None


def page(
    folder: Folder, facts: RunFacts, kinds: tuple[Quantity, ...], bundle: Bundle | None, recipe: Recipe,
    compared: Compared | None,
) -> Iterator[str]:  # fmt: skip
    """The HTML of a report in pieces; the shown cases are read from `folder` as their turn comes.

    Raises:
        UnreadableError, OSError, InvalidInputError: what the page needs cannot be read.
    """
    run = facts.run
    context = {
        "policy": policy(),
        "scripts": [Markup(asset(name)) for name in _SCRIPTS],
        "style": Markup(asset(_STYLE)),
        "licences": asset(_LICENCES),
        "niivue": NIIVUE_VERSION,
        "run": run,
        "facts": facts,
        "ids": dict(zip(facts.cohort.samples, facts.cohort.names, strict=True)),
        "adherence": _adherence(facts, kinds),
        "table": _table(facts, kinds),
        "max_rows": MAX_ROWS,
        "max_points": MAX_POINTS,
        "max_listed": MAX_LISTED,
        "tolerance": VOLUME_TOLERANCE,
        "case_mb": MAX_CASE_BYTES / 1e6,
        "compared": compared,
        "recipe": recipe,
        "options": _options(facts),
        "manifest": bundle and bundle.manifest,
        "card": bundle and model_card(bundle),
        "viewer": _viewer(facts),
        "modalities": [(name, modality_name(name)) for name in run.bundle.modalities],
        "tissues": _tissues(facts),
        "cases": _cases(folder, facts, kinds, recipe),
    }
    yield from _environment().get_template("report.html.j2").generate(context)


def policy() -> str:
    """The page's content security policy: its own scripts and style alone, and nothing from anywhere."""
    scripts = " ".join(_digest(asset(name)) for name in _SCRIPTS)
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_digest(asset(_STYLE))}; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _plain(value: object) -> object:
    """Text from outside without characters that no page can hold, or that turn the direction of writing round."""
    return shown(value) if type(value) is str else value


def _adherence(facts: RunFacts, kinds: tuple[Quantity, ...]) -> list[Adherence]:
    pairs, names = facts.cohort.pairs(), facts.cohort.names
    figures, shown = adherence(pairs), set(facts.shown)
    in_viewer = np.array([sample in shown for sample in facts.cohort.samples], bool)
    told = []
    for kind in kinds:
        found = pairs[kind.column]
        finite = np.asarray(np.isfinite(found).all(axis=1))
        points = found[finite] * kind.factor + kind.offset
        marked = frozenset(np.flatnonzero(in_viewer[finite]).tolist())
        own = [name for name, counts in zip(names, finite, strict=True) if counts]
        plot = scatter(kind.name, kind.unit, points, own, marked) if len(points) else None
        told.append(_told(kind, figures[kind.column], plot))
    return told


def _told(kind: Quantity, figures: dict[str, Any], plot: Markup | None) -> Adherence:
    r, error, relative = figures["r"], figures["median_error"], figures["median_relative_error"]
    return Adherence(
        kind,
        "–" if r is None else f"{r:.2f}",
        "–" if error is None else f"{error * kind.factor:.{kind.digits}f}",
        "–" if relative is None or kind.offset else f"{relative:.0%}",  # a place has no zero of its own
        figures["samples"],
        plot,
    )


def _table(facts: RunFacts, kinds: tuple[Quantity, ...]) -> list[tuple[int, str, list[tuple[str, str]]]]:
    """Sample, id, and (requested, measured) as text of every quantity; `MAX_ROWS` at most."""
    cohort = facts.cohort
    wanted, made = cohort.requested[:MAX_ROWS].tolist(), cohort.measured[:MAX_ROWS].tolist()
    return [
        (cohort.samples[k], cohort.names[k], [(q.text(a), q.text(b)) for q, a, b in zip(kinds, *row, strict=True)])
        for k, row in enumerate(zip(wanted, made, strict=True))
    ]


def _options(facts: RunFacts) -> list[tuple[str, str]]:
    """What fixed the bytes of the run, as pairs of words."""
    run = facts.run
    told = {**vars(run.options), **vars(run.resolved)}
    pairs = [(name.replace("_", " "), "–" if value is None else f"{value}") for name, value in told.items()]
    return [*pairs, *((f"version of {name}", version) for name, version in sorted(run.versions.items()))]


def _tissues(facts: RunFacts) -> list[dict[str, Any]]:
    names = tissue_names(facts.run.bundle.labels)
    colours = TISSUE_COLOURS[1:].astype(int).tolist()
    return [{"name": name, "value": k + 1, "colour": colours[k % len(colours)]} for k, name in enumerate(names)]


def _viewer(facts: RunFacts) -> dict[str, Any]:
    """What the script needs beside the volumes."""
    modalities = [{"key": name, "name": modality_name(name)} for name in facts.run.bundle.modalities]
    return {"mask": SEGMENTATION, "modalities": modalities, "tissues": _tissues(facts), "cases": facts.shown}


def _cases(folder: Folder, facts: RunFacts, kinds: tuple[Quantity, ...], recipe: Recipe) -> Iterator[CaseView]:
    for record in facts.index.records(facts.shown):
        volumes = embed_case(folder, facts.run, record.sample, caption(record))
        yield _case(record, kinds, recipe, volumes)


def _case(record: SampleRecord, kinds: tuple[Quantity, ...], recipe: Recipe, volumes: CaseVolumes) -> CaseView:
    rows = []
    for kind in kinds:
        wanted, made = record.requested[kind.column], record.measured.get(kind.column)
        texts = kind.text(wanted), kind.text(made), kind.difference(wanted, made)
        rows.append((kind.name, kind.unit, *texts, kind.column in record.drawn))
    inside, pieces = record.measured.get("inside_brain"), record.measured.get("pieces")
    told = [("inside the brain", "–" if inside is None else f"{inside:.1%}")]
    told.append(("pieces", "–" if pieces is None else f"{pieces:.0f}"))
    told.append(("draw that was kept", str(record.attempt + 1)))
    if record.within_tolerance is not None:
        told.append(("within the tolerance", "yes" if record.within_tolerance else "no"))
    got = record.measured.get("volume_ml")
    text = (
        "no tumour was drawn" if not got else f"tumour of {got:.1f} ml, {record.requested['volume_ml']:.1f} requested"
    )
    return CaseView(record.sample, record.id, rows, told, recipe.of(record.sample), volumes, text)

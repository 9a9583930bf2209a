"""What `evaluate` found, written into the model card of a bundle."""

from __future__ import annotations

import dataclasses

from ..engine.bundle.card import CARD_NAME, EVALUATION
from ..engine.bundle.load import Bundle, load_bundle, record_files
from ..engine.bundle.manifest import MANIFEST_NAME, manifest_bytes
from ..engine.errors import UsageError
from ..engine.files import write_atomic


def with_evaluation(card: str, tables: str, command: str) -> str:
    """The card with its evaluation section, the last one, replaced or added.

    `tables` is Markdown whose headings are of the second level, as `evaluation.md` holds it.
    """
    kept = card.split(f"\n{EVALUATION}\n")[0].rstrip()
    body = tables.strip().replace("\n## ", "\n### ").replace("## ", "### ", 1)
    return f"{kept}\n\n{EVALUATION}\n\nMeasured by\n\n```\n{command}\n```\n\n{body}\n"


def write_evaluation(bundle: Bundle, tables: str, command: str) -> Bundle:
    """Put the tables into a bundle's model card and record the changed file; no graph and no identifier changes.

    Raises:
        UsageError: the bundle cannot be written.
    """
    card = bundle.path / CARD_NAME
    try:
        write_atomic(card, with_evaluation(card.read_text("utf-8"), tables, command).encode())
        manifest = dataclasses.replace(bundle.manifest, files=record_files(bundle.path))
        write_atomic(bundle.path / MANIFEST_NAME, manifest_bytes(manifest))
    except OSError as error:
        raise UsageError(f"{bundle.path}: the model card cannot be written: {error.strerror or error}") from error
    return load_bundle(bundle.path)

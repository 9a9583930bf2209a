"""The evaluation as JSON and as a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engine.files import write_atomic

Row = tuple[str, ...]


def plain(value: Any) -> Any:
    """The same data with every number JSON can hold; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write all figures; equal figures give equal bytes."""
    write_atomic(path, (json.dumps(plain(figures), indent=1, allow_nan=False) + "\n").encode())


def table(figures: Mapping[str, Any]) -> str:
    """The figures as Markdown tables, one a topic; what was not measured is said at the end."""
    sections = [
        ("Compared", ("side", "cases"), _inputs(figures["inputs"])),
        ("Distribution", ("figure", "synthetic", "real or train"), _distribution(figures)),
        ("Tumour characteristics", ("characteristic", "Wasserstein", "in real deviations"), _characteristics(figures)),
        (
            "Intensities (Wasserstein, share of the range)",
            ("tissue", *figures["inputs"]["modalities"]),
            _intensities(figures),
        ),
        (
            "Condition adherence",
            ("condition", "r", "median relative error", "median error", "samples"),
            _adherence(figures),
        ),
        (
            "Memorisation",
            ("space", "least sample", "least held out", "1st percentile", "below it"),
            _memorisation(figures),
        ),
        ("Reconstruction", ("figure", "coarse", "refined"), _reconstruction(figures)),
    ]
    text = "\n\n".join(_section(title, head, rows) for title, head, rows in sections if rows)
    missing = [f"- {name}: {why}" for name, why in figures.get("not_measured", {}).items()]
    return text + ("\n\n## Not measured\n\n" + "\n".join(missing) if missing else "") + "\n"


def _section(title: str, head: Row, rows: Sequence[Row]) -> str:
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"## {title}", "", lines[0], rule, *lines[1:]])


def show(value: Any, digits: int = 3) -> str:
    """A number in few digits, a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return (
        f"{value:.{digits}g}"
        if isinstance(value, float) and abs(value) < 10
        else f"{value:.1f}"
        if isinstance(value, float)
        else str(value)
    )


def _inputs(inputs: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [(side, str(inputs[side]["cases"])) for side in ("real", "synthetic", "train") if inputs[side]]
    if inputs["synthetic_left_out"]:
        rows.append(("synthetic, unusable", str(len(inputs["synthetic_left_out"]))))
    return rows


def _distribution(figures: Mapping[str, Any]) -> list[Row]:
    if "mmd" not in figures:
        return []
    rows: list[Row] = [("MMD to real", *(_estimate(figures["mmd"][side]) for side in ("synthetic", "train")))]
    diversity = {side: (figures["ms_ssim"][side] or {}).get("mean") for side in ("synthetic", "real")}
    rows.append(("MS-SSIM of pairs", show(diversity["synthetic"]), show(diversity["real"])))
    if isinstance(figures["fid"], str):
        rows.append(("FID", figures["fid"], "-"))
    else:
        found = figures["fid"]["distance"]
        rows += [(f"FID {modality}", "-" if found is None else show(found[modality]), "-") for modality in found or ()]
        if found is None:
            rows.append(("FID", figures["fid"]["reason"], "-"))
    rows += [(name.replace("_", " "), show(value), "1") for name, value in figures["coherence"].items()]
    for name, title in (("inside_brain", "tumour inside the brain"), ("largest_piece", "tumour in its largest piece")):
        rows.append((title, *(show(figures["anatomy"][side][name]["mean"]) for side in ("synthetic", "real"))))
    return rows


def _estimate(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{show(found['value'])} ± {show(found['standard_error'])}"


def _characteristics(figures: Mapping[str, Any]) -> list[Row]:
    found = figures.get("characteristics", {})
    return [(name, show(value["distance"]), show(value["in_deviations"])) for name, value in found.items()]


def _intensities(figures: Mapping[str, Any]) -> list[Row]:
    return [(tissue, *(show(v) for v in values.values())) for tissue, values in figures.get("intensities", {}).items()]


def _adherence(figures: Mapping[str, Any]) -> list[Row]:
    keys = ("r", "median_relative_error", "median_error", "samples")
    return [(name, *(show(value[key]) for key in keys)) for name, value in figures.get("adherence", {}).items()]


def _memorisation(figures: Mapping[str, Any]) -> list[Row]:
    return [
        (
            space, show(found["synthetic"]["least"]), show(found["held_out"]["least"]), show(found["threshold"]),
            _listed(found["memorised"]),
        )
        for space, found in figures.get("memorisation", {}).items()
    ]  # fmt: skip


def _reconstruction(figures: Mapping[str, Any]) -> list[Row]:
    found = figures.get("reconstruction")
    if found is None:
        return []
    refined = found["refined"] or {}
    rows: list[Row] = [
        (name.replace("_", " "), show(value), show(refined.get(name))) for name, value in found["coarse"].items()
    ]
    return rows + [(f"Dice {name.upper()}", show(value), "-") for name, value in found["dice"].items()]


def _listed(memorised: Sequence[Mapping[str, Any]] | None) -> str:
    if memorised is None:
        return "not told: too few held-out cases"
    return ", ".join(one["sample"] for one in memorised) or "none"

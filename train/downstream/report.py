"""The comparison as Markdown tables and plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...engine.files import write_atomic
from ...engine.screen import counted
from .arms import SYNTHETIC
from .scores import REGIONS

PICTURES = ("dice", "differences", "curves")
"""Names of the files that `write_plots` may make, without `.png`."""
COLOURS = ("#3b6ea5", "#d1682c", "#4c9a58", "#8a63a8", "#7a7a7a")

Row = Mapping[str, Any]


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    rows, inputs, settings = figures["figures"], figures["inputs"], figures["settings"]
    synthetic = inputs["synthetic"]
    said = [
        f"Trained on {inputs['real']['cases']} real and {synthetic['cases'] if synthetic else 0} synthetic cases, "
        f"tested on {inputs['test']['cases']} others; {settings['trainer']}, "
        f"{counted(settings['steps'], 'step')} each, {counted(settings['seeds'], 'seed')}. "
        f"In brackets: {figures['intervals']}."
    ]
    said += [f"**{warning}**" for warning in figures["warnings"]]
    sections = [
        ("Dice", _lines(rows, "dice", None, "{:.3f}")),
        ("Dice minus that of real cases alone", _lines(rows, "dice", "minus_real", "{:+.3f}")),
        ("Dice over that of real cases alone", _lines(rows, "dice", "over_real", "{:.3f}")),
        ("HD95, mm", _lines(rows, "hd95_mm", None, "{:.1f}")),
        ("HD95 minus that of real cases alone, mm", _lines(rows, "hd95_mm", "minus_real", "{:+.1f}")),
    ]
    head = ("arm", "real cases", *(region.upper() for region in REGIONS))
    parts = [*said, *(f"## {title}\n\n{_markdown(head, lines)}" for title, lines in sections if lines)]
    parts.append(f"## Cost of one training, s\n\n{_markdown(*_costs(figures['cost']))}")
    return "\n\n".join(parts) + "\n"


def _lines(rows: Sequence[Row], metric: str, part: str | None, form: str) -> list[tuple[str, ...]]:
    """A line for each arm and number of real cases that has `part` (None: the figure itself) of any region."""
    found: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        if row["metric"] == metric:
            figure = row if part is None else row.get(part)
            found.setdefault((row["arm"], row["real_cases"]), []).append(_interval(figure, form))
    return [(arm, str(count), *cells) for (arm, count), cells in found.items() if any(cells)]


def _interval(figure: Mapping[str, float] | None, form: str) -> str:
    if figure is None:
        return ""
    value, low, high = (form.format(figure[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _costs(cost: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = tuple(cost[0])
    return tuple(name.replace("_", " ") for name in head), [tuple(str(row[name]) for name in head) for row in cost]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def write_plots(folder: Path, figures: Mapping[str, Any]) -> list[Path]:
    """Draw Dice with intervals, differences from real cases alone, and curves over the number of real cases."""
    rows = [row for row in figures["figures"] if row["metric"] == "dice"]
    most = max(row["real_cases"] for row in rows)
    drawn = {"dice": _dice(rows, most)}
    if any("minus_real" in row for row in rows):
        drawn["differences"] = _differences(rows, most)
    if len({row["real_cases"] for row in rows} - {0}) > 1:
        drawn["curves"] = _curves(rows)
    for name, figure in drawn.items():
        FigureCanvasAgg(figure)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
        write_atomic(folder / f"{name}.png", picture.getvalue())
    return [folder / f"{name}.png" for name in drawn]


def _dice(rows: Sequence[Row], most: int) -> Figure:
    figure, axes = _panel(1, (9, 4))
    ax, arms = axes[0], _arms(rows)
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        found = [_row(rows, arm, region, most) for region in REGIONS]
        at = np.arange(len(REGIONS)) + (number - (len(arms) - 1) / 2) * width
        ax.bar(at, [row["value"] for row in found], width, label=arm, color=COLOURS[number], yerr=_bars(found))
    ax.set_xticks(range(len(REGIONS)), [region.upper() for region in REGIONS])
    ax.set_ylim(0, 1)
    ax.set_ylabel("Dice")
    ax.legend()
    return figure


def _differences(rows: Sequence[Row], most: int) -> Figure:
    arms = [arm for arm in _arms(rows) if "minus_real" in _row(rows, arm, "wt", most)]
    figure, axes = _panel(len(REGIONS), (12, 1.2 + 0.4 * len(arms)))
    for ax, region in zip(axes, REGIONS, strict=True):
        found = [_row(rows, arm, region, most)["minus_real"] for arm in arms]
        ax.errorbar([f["value"] for f in found], range(len(arms)), xerr=_bars(found), fmt="o", color=COLOURS[0])
        ax.axvline(0, color="grey", linewidth=1)
        ax.set_yticks(range(len(arms)), arms if ax is axes[0] else [""] * len(arms))
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.set_title(region.upper())
    axes[len(REGIONS) // 2].set_xlabel("Dice minus that of real cases alone")
    return figure


def _curves(rows: Sequence[Row]) -> Figure:
    figure, axes = _panel(len(REGIONS), (14, 3.6))
    for ax, region in zip(axes, REGIONS, strict=True):
        for number, arm in enumerate(_arms(rows)):
            found = [row for row in rows if row["arm"] == arm and row["region"] == region]
            values = [row["value"] for row in found]
            if arm == SYNTHETIC:
                ax.axhline(values[0], color=COLOURS[number], linestyle="--", label=arm)
                continue
            counts = [row["real_cases"] for row in found]
            ax.errorbar(counts, values, yerr=_bars(found), marker="o", capsize=2, color=COLOURS[number], label=arm)
        ax.set_title(region.upper())
        ax.set_xlabel("real cases")
    axes[0].set_ylabel("Dice")
    axes[0].legend(fontsize=7)
    return figure


def _arms(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _row(rows: Sequence[Row], arm: str, region: str, most: int) -> Row:
    count = 0 if arm == SYNTHETIC else most
    return next(row for row in rows if (row["arm"], row["region"], row["real_cases"]) == (arm, region, count))


def _bars(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Lengths of the lower and upper half of each interval."""
    return [
        [max(0.0, f["value"] - f["low"]) for f in found],
        [max(0.0, f["high"] - f["value"]) for f in found],
    ]


def _panel(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Any]]:
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        return figure, list(figure.subplots(1, columns, squeeze=False)[0])

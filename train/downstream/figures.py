"""The figures of a comparison: means, differences from real cases alone, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .arms import REAL, SYNTHETIC
from .intervals import LEVEL, RESAMPLES, Interval, PairedBootstrap, Scores
from .leaks import told_of_copies
from .run import FEW_SEEDS, FEW_TESTS, Comparison, Result
from .scores import METRICS, REGIONS

Key = tuple[str, int]  # arm, real cases


def figures_of(comparison: Comparison) -> dict[str, Any]:
    """Plain data: `figures` has a row for each arm, number of real cases, metric and region."""
    options, sides = comparison.options, comparison.sides
    by_key: dict[Key, list[Result]] = {}
    for result in comparison.results:
        by_key.setdefault((result.training.arm, result.training.real_cases), []).append(result)
    bootstrap = PairedBootstrap.of(options.seeds, len(sides.test))
    rows = [
        _row(key, metric, region, by_key, len(sides.real), bootstrap)
        for key in by_key
        for metric in METRICS
        for region in REGIONS
    ]
    return {
        "inputs": {
            "real": {"cases": len(sides.real), "left_out": len(sides.real.left_out)},
            "synthetic": None if sides.synthetic is None else {
                "cases": len(sides.synthetic), "left_out": len(sides.synthetic.left_out),
                "run": run_of(options.synthetic),
            },
            "test": {"cases": len(sides.test), "names": sides.test.cases},
            "grid": {"shape": options.grid.shape, "spacing_mm": options.grid.spacing_mm},
        },
        "settings": {
            "trainer": options.trainer, "steps": comparison.steps, "seeds": options.seeds, "device": comparison.device,
            "quick": options.quick, "baseline_cases": comparison.beside, **comparison.trainer.settings,
        },
        "intervals": f"{LEVEL:g} %, paired bootstrap over test cases and seeds, {RESAMPLES} resamples",
        "figures": rows,
        "cost": [_cost(key, results) for key, results in by_key.items()],
        "warnings": warnings_of(comparison),
    }  # fmt: skip


def _row(
    key: Key, metric: str, region: str, by_key: Mapping[Key, list[Result]], all_real: int, bootstrap: PairedBootstrap
) -> dict[str, Any]:
    arm, count = key
    scored = _scores(by_key[key], metric, region)
    row: dict[str, Any] = {
        "arm": arm, "real_cases": count, "metric": metric, "region": region, **_named(bootstrap.mean(scored)),
    }  # fmt: skip
    compared = (REAL, all_real if arm == SYNTHETIC else count)
    if arm == REAL or compared not in by_key:
        return row
    real = _scores(by_key[compared], metric, region)
    row["minus_real"] = _named(bootstrap.difference(scored, real))
    if metric == "dice":
        ratio = bootstrap.ratio(scored, real)
        row["over_real"] = None if ratio is None else _named(ratio)
    return row


def _scores(results: list[Result], metric: str, region: str) -> Scores:
    return np.array([result.scores[metric][region] for result in results], np.float64)


def _named(interval: Interval) -> dict[str, float]:
    return interval._asdict()


def _cost(key: Key, results: list[Result]) -> dict[str, Any]:
    each = {name: round(float(np.mean([result.cost[name] for result in results])), 2) for name in results[0].cost}
    return {"arm": key[0], "real_cases": key[1], "trainings": len(results), **each}


def run_of(folder: Path | None) -> dict[str, Any] | None:
    """Which bundle and options made a run directory; None where the folder is none."""
    path = None if folder is None else folder / "run.json"
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        return {name: record[name] for name in ("bundle", "seed", "options") if name in record}
    except (OSError, ValueError, TypeError):
        return None


def warnings_of(comparison: Comparison) -> list[str]:
    """What keeps the figures from being evidence."""
    sides, found = comparison.sides, []
    if sides.synthetic is not None and (copies := told_of_copies(sides.real, sides.synthetic)) is not None:
        found.append(copies)
    if comparison.options.quick:
        found.append("--quick: short trainings on some of the cases; a look, no evidence")
    if comparison.options.seeds < FEW_SEEDS:
        found.append(f"fewer than {FEW_SEEDS} seeds: intervals leave out most of what trainings differ by")
    if len(sides.test) < FEW_TESTS:
        found.append(f"fewer than {FEW_TESTS} test cases: intervals are rough")
    return found

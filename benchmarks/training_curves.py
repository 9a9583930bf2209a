"""The loss of each stage of a training directory as pictures.

python -m sbldm.benchmarks.training_curves OUT [--to FOLDER]

Reads OUT/metrics.jsonl and writes training_STAGE.png for every stage in it, into OUT or FOLDER: thin, the loss as
logged; thick, the mean over the last tenth of the run up to there. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..train.logbook import METRICS_NAME, read_metrics

THIN, THICK, UNSEEN = "#b9c9dd", "#3b6ea5", "#b5651d"
WINDOW = 10  # part of the run that the thick line is averaged over


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and print what was drawn; 1 where the directory has no metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="training directory")
    parser.add_argument("--to", type=Path, default=None, help="folder of the pictures; default: OUT")
    given = parser.parse_args(arguments)
    try:
        metrics = read_metrics(given.out)
    except (OSError, ValueError, KeyError) as error:
        print(
            f"error: {given.out / METRICS_NAME}: cannot be read ({error}); is this a training directory?",
            file=sys.stderr,
        )
        return 1
    target = given.to or given.out
    target.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for stage, found in metrics.items():
        path = target / f"training_{stage}.png"
        figure = loss_figure(stage, found)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=100, metadata={"Software": None})
        drawn[stage] = {"file": str(path), "steps": max(found) + 1, "loss": float(running_mean(losses(found))[-1])}
        if unseen := held_out_losses(found):
            drawn[stage]["held_out_loss"] = unseen[max(unseen)]
    print(json.dumps(drawn))
    return 0


def losses(found: Mapping[int, Mapping[str, float]]) -> NDArray[np.float64]:
    """The loss of each logged step, in the order of the steps."""
    return np.array([found[step]["loss"] for step in sorted(found)])


def held_out_losses(found: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """Step -> loss on held-out cases, where it was looked at."""
    return {step: values["held_out_loss"] for step, values in sorted(found.items()) if "held_out_loss" in values}


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each value and those before it, over a tenth of them all."""
    width = max(1, len(values) // WINDOW)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def loss_figure(stage: str, found: Mapping[int, Mapping[str, float]]) -> Figure:
    """Loss against step, on a logarithmic axis."""
    values, steps = losses(found), np.array(sorted(found)) + 1
    figure = Figure(figsize=(6, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot(steps, values, color=THIN, linewidth=1, label="as logged")
    ax.plot(steps, running_mean(values), color=THICK, linewidth=2, label=f"mean over {100 // WINDOW} % of the run")
    if unseen := held_out_losses(found):
        ax.plot([step + 1 for step in unseen], list(unseen.values()), color=UNSEEN, marker=".", label="held-out cases")
    ax.set_yscale("log")
    ax.set_title(stage)
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.grid(True, which="both", alpha=0.3)
    ax.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main())

"""Draws architecture.svg: how a cohort becomes a bundle, and a row of conditions a volume.

python docs/pictures/architecture.py    (matplotlib comes with the extra "train")
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
TORCH, DATA, ENGINE, NETWORK = "#fde8d0", "#ececec", "#d9e8f6", "#dff0d8"
W, H = 1.72, 0.86  # of a box

# x, y, title, file or folder, colour; y grows downward
BOXES = {
    "cohort": (0, 0, "cohort", "BraTS, nnU-Net, BIDS", DATA),
    "cache": (1, 0, "read, resample,\nmeasure", "engine/scans/", ENGINE),
    "autoencoder": (2, 0, "slice VAE", "train/objectives/\nslice_autoencoder.py", TORCH),
    "aggregator": (3, 0, "aggregator", "train/objectives/\naggregator.py", TORCH),
    "denoiser": (4, 0, "denoiser,\ndistilled", "train/objectives/\ndenoiser.py distill.py", TORCH),
    "refiner": (5, 0, "refiner", "train/objectives/\nrefiner.py", TORCH),
    "checkpoint": (6, 0, "training directory", "weights.safetensors,\nstate.json", DATA),
    "graphs": (6, 1, "graphs", "export/onnx_graph.py\nexport/rewrite/", TORCH),
    "gate": (5, 1, "parity gate", "export/gate.py\nparity.py divergence.py", TORCH),
    "card": (4, 1, "model card", "export/model_card.py", TORCH),
    "bundle": (3, 1, "bundle", "bundle.json, *.onnx", DATA),
    "load": (2, 1, "verify, load", "engine/bundle/load.py", ENGINE),
    "backend": (1, 1, "choose a backend", "engine/backends/", ENGINE),
    "csv": (0, 2.25, "cond.csv", "one row a tumour", DATA),
    "read": (1, 2.25, "read, check", "engine/conditions/\ncsv.py rules.py", ENGINE),
    "draw": (2, 2.25, "draw what is open", "engine/conditions/\ndistribution.py", ENGINE),
    "requests": (3, 2.25, "one task a sample", "engine/run/requests.py", ENGINE),
    "open": (4, 2.25, "open the loop", "engine/run/open_loop.py", ENGINE),
    "plan": (5, 2.25, "sampling plan", "engine/sampling/plan.py\nschedule.py", ENGINE),
    "noise": (6, 2.25, "noise (Philox)", "kernels/noise.py", ENGINE),
    "sampler": (6, 3.25, "denoiser x steps", "engine/sampling/\nsamplers.py host.py", NETWORK),
    "stack": (5, 3.25, "aggregator,\ndecoder", "engine/sampling/\ndecoding.py", NETWORK),
    "clip": (4, 3.25, "clip, refiner", "engine/sampling/\ndecoding.py", NETWORK),
    "assemble": (3, 3.25, "int16, labels", "kernels/assemble.py", ENGINE),
    "small": (2, 3.25, "drop small\ncomponents", "engine/sampling/\nsmall_components.py", ENGINE),
    "measure": (1, 3.25, "measure", "engine/output/measure.py", ENGINE),
    "redraw": (0, 3.25, "keep or redraw", "engine/run/redraw.py", ENGINE),
    "write": (0, 4.25, "write files", "engine/run/writer.py\nengine/output/", ENGINE),
    "ledger": (1, 4.25, "a line in the ledger", "engine/run/ledger.py", ENGINE),
    "manifest": (2, 4.25, "manifest", "engine/run/manifest.py", ENGINE),
    "run": (3, 4.25, "run directory", "*.nii.gz, run.json,\nledger, manifest.csv", DATA),
}
ARROWS = (
    "cohort cache autoencoder aggregator denoiser refiner checkpoint graphs gate card bundle load backend",
    "csv read draw requests open plan noise sampler stack clip assemble small measure redraw write ledger manifest run",
)
DASHED = (("backend", "open", ""), ("redraw", "requests", "the next attempt"))
HEADS = {
    "cohort": "train/ with PyTorch: a cohort becomes networks",
    "graphs": "export/ with PyTorch: networks become a bundle, held to them",
    "csv": "engine/ without PyTorch: conditions become volumes (on a GPU: engine/cuda/, kernels/*.cu)",
}


def centre(name: str) -> tuple[float, float]:
    x, y = BOXES[name][:2]
    return 2.0 * x, 1.3 * y


def box(axes: Axes, name: str) -> None:
    x, y = centre(name)
    title, place, colour = BOXES[name][2:]
    axes.add_patch(
        FancyBboxPatch(
            (x - W / 2, y - H / 2), W, H, boxstyle="round,pad=0,rounding_size=0.09", fc=colour, ec="#555", lw=0.8
        )
    )
    middle = y + 0.06 * (title.count("\n") - place.count("\n"))
    axes.text(x, middle - 0.01, title, ha="center", va="bottom", fontsize=9, weight="bold", linespacing=1.0)
    axes.text(x, middle + 0.06, place, ha="center", va="top", fontsize=6.5, color="#333", linespacing=1.05)


def arrow(axes: Axes, start: str, end: str) -> None:
    (x0, y0), (x1, y1) = centre(start), centre(end)
    dx, dy = (W / 2, 0.0) if y0 == y1 else (0.0, H / 2)
    side = 1 if (x1, y1) > (x0, y0) or y1 > y0 else -1
    style = {"arrowstyle": "-|>", "lw": 1.1, "color": "#444"}
    axes.annotate("", (x1 - side * dx, y1 - side * dy), (x0 + side * dx, y0 + side * dy), arrowprops=style)


def dashed(axes: Axes, start: str, end: str, said: str) -> None:
    (x0, y0), (x1, y1) = centre(start), centre(end)
    up = -1 if y1 < y0 else 1
    first, last = (x0 + W / 4, y0 + up * H / 2), (x1 - W / 4, y1 - up * H / 2)
    style = {"arrowstyle": "-|>", "lw": 1.0, "color": "#444", "linestyle": "--"}
    axes.annotate("", last, first, arrowprops=style)
    axes.text((first[0] + last[0]) / 2, (first[1] + last[1]) / 2 - 0.06, said, ha="center", va="bottom", fontsize=7)


def main() -> None:
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sbldm", "font.family": "DejaVu Sans"})
    figure = Figure(figsize=(13.2, 7.2))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-1.1, 13.1), ylim=(6.35, -1.0))
    axes.axis("off")
    for name in BOXES:
        box(axes, name)
    for chain in ARROWS:
        names = chain.split()
        for start, end in pairwise(names):
            arrow(axes, start, end)
    for start, end, said in DASHED:
        dashed(axes, start, end, said)
    for name, said in HEADS.items():
        x, y = centre(name)
        left = x == 0
        axes.text(x - (W / 2 if left else 0.15), y - H / 2 - 0.12, said, ha="left" if left else "right", fontsize=9)
    figure.savefig(HERE / "architecture.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

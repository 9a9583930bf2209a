"""Quality against volumes a second, one line a backend and sampler."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ..engine.errors import UsageError
from .bench import BenchResult, PointFigure


def require_matplotlib() -> None:
    """UsageError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError('--plot needs matplotlib: pip install "sbldm-engine[train]"') from error


def plot(result: BenchResult, path: Path) -> None:
    """Write the picture; its format follows the file's ending. OSError or ValueError where that cannot be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    psnr, dice = figure.subplots(2, 1, sharex=True)
    for name, figures in _lines(result.points).items():
        speed = [f.volumes_a_second for f in figures]
        psnr.plot(speed, [f.quality.psnr_db for f in figures], "o-", label=name)
        dice.plot(speed, [min(f.quality.dice.values()) for f in figures], "o-", label=name)
        for f in figures:
            if f.quality.psnr_db is not None:
                psnr.annotate(str(f.point.steps), (f.volumes_a_second, f.quality.psnr_db), fontsize=8)
    psnr.set_ylabel(f"PSNR, dB, against {result.plan.reference_steps} steps")
    dice.set_ylabel("Dice of the worst label")
    dice.set_xlabel("volumes a second, to disk")
    psnr.set_title(
        f"{result.bundle['id']}: steps along the lines{'' if result.complete else ' (incomplete)'}", fontsize=9
    )
    psnr.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def _lines(points: list[PointFigure]) -> dict[str, list[PointFigure]]:
    lines: dict[str, list[PointFigure]] = defaultdict(list)
    for figure in sorted(points, key=lambda f: f.point.steps):
        point = figure.point
        lines[f"{point.backend} {figure.precision}, {point.sampler}, batch {point.batch}"].append(figure)
    return lines

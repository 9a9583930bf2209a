"""The evaluation as pictures (PNG)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...engine.conditions.columns import COLUMNS
from ...engine.files import write_atomic
from ...engine.output.preview import Rgb, Scan, cropped, panels, widest_cuts
from ..data.cohort import Cohort
from .autoencoder import Autoencoder
from .run import Evaluation
from .segmenter import REGIONS
from .structure import BANDS
from .volumes import TISSUE_NAMES

REAL, SYNTHETIC = "#3b6ea5", "#d1682c"
CASES_SHOWN = 4
PICTURES = (
    "samples", "characteristics", "intensities", "texture", "agreement", "adherence", "memorisation", "reconstruction",
)  # fmt: skip
"""Names of the files that `write_plots` may make, without `.png`."""
_METADATA: dict[str, Any] = {"Software": None}


def write_plots(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Draw what was measured into `folder`; gives the files written."""
    figures, cohorts = evaluation.figures, evaluation.cohorts
    drawn: dict[str, Figure] = {}
    if cohorts.synthetic is not None:
        shown = {} if cohorts.real is None else {"real": cohorts.real}
        drawn["samples"] = three_views({**shown, "synthetic": cohorts.synthetic})
    if cohorts.synthetic is not None and cohorts.real is not None:
        drawn["characteristics"] = _characteristics(cohorts.real.conditions, cohorts.synthetic.conditions)
        drawn["intensities"] = _intensities(evaluation.descriptions, cohorts.real.modalities)
    if evaluation.pairs:
        drawn["adherence"] = _adherence(evaluation.pairs, figures["adherence"])
    if "texture" in figures:
        drawn["texture"] = _texture(figures["texture"])
    if "agreement" in figures:
        drawn["agreement"] = _agreement(figures["agreement"])
    if "memorisation" in figures and figures["memorisation"]["distances"] is not None:
        drawn["memorisation"] = _memorisation(figures["memorisation"])
    if "reconstruction" in figures and evaluation.autoencoder is not None and cohorts.real is not None:
        drawn["reconstruction"] = _reconstruction(cohorts.real, evaluation.autoencoder)
    for name, figure in drawn.items():
        FigureCanvasAgg(figure)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110, metadata=_METADATA)
        write_atomic(folder / f"{name}.png", picture.getvalue())
    return [folder / f"{name}.png" for name in drawn]


def _characteristics(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> Figure:
    figure, axes = _grid(3, 4, (14, 8))
    for k, name in enumerate(COLUMNS):
        ax = axes[k // 4, k % 4]
        ax.set_title(name)
        if np.isnan(real[:, k]).any() or np.isnan(synthetic[:, k]).any():
            continue
        bins = np.histogram_bin_edges(np.concatenate([real[:, k], synthetic[:, k]]), 20)
        ax.hist(real[:, k], bins, density=True, alpha=0.6, color=REAL, label="real")
        ax.hist(synthetic[:, k], bins, density=True, alpha=0.6, color=SYNTHETIC, label="synthetic")
    axes[0, 0].legend()
    return figure


def _intensities(descriptions: Mapping[str, Mapping[str, Any]], modalities: tuple[str, ...]) -> Figure:
    figure, axes = _grid(len(TISSUE_NAMES), len(modalities), (3.5 * len(modalities), 9))
    for side, colour in (("real", REAL), ("synthetic", SYNTHETIC)):
        histograms = descriptions[side]["histograms"].sum(axis=0)
        for t, tissue in enumerate(TISSUE_NAMES):
            for m, modality in enumerate(modalities):
                counts = histograms[t, m]
                axes[t, m].plot(np.arange(256) / 255, counts / max(counts.sum(), 1), color=colour, label=side)
                axes[t, m].set_title(f"{tissue}, {modality}")
    axes[0, 0].legend()
    return figure


def _adherence(pairs: Mapping[str, NDArray[np.float64]], figures: Mapping[str, Any]) -> Figure:
    figure, axes = _grid(3, 4, (14, 10))
    for ax in axes.ravel()[len(pairs) :]:
        ax.axis("off")
    for ax, (name, values) in zip(axes.ravel(), pairs.items(), strict=False):
        ax.scatter(values[:, 0], values[:, 1], s=12, color=SYNTHETIC)
        ends = [float(np.nanmin(values)), float(np.nanmax(values))]
        ax.plot(ends, ends, color="grey", linewidth=1)
        r = figures[name]["r"]
        ax.set_title(name if r is None else f"{name}, r = {r:.3f}")
        ax.set_xlabel("requested")
        ax.set_ylabel("measured")
    return figure


def _memorisation(found: Mapping[str, Any]) -> Figure:
    figure, axes = _grid(1, 2, (13, 4.5))
    sides, planted = found["distances"], found["planted"]
    bins = np.histogram_bin_edges(sides["held_out"] + sides["synthetic"] + [1.0], 30)
    axes[0, 0].hist(sides["held_out"], bins, alpha=0.6, color=REAL, label="held-out real cases")
    axes[0, 0].hist(sides["synthetic"], bins, alpha=0.6, color=SYNTHETIC, label="samples")
    axes[0, 0].axvline(1.0, color="black", linewidth=1, label="limit: copies lie above")
    axes[0, 0].set_xlabel("closeness to the nearest training case")
    axes[0, 0].legend()
    _bars(axes[0, 1], planted)
    axes[0, 1].set_xlabel("share of planted copies that is found")
    axes[0, 1].set_xlim(0, 1)
    return figure


def _agreement(found: Mapping[str, Any]) -> Figure:
    figure, axes = _grid(1, 3, (13, 3.5))
    for ax, region in zip(axes.ravel(), REGIONS, strict=True):
        sides = {"unseen real": "real", "samples": "synthetic", "swapped masks": "swapped"}
        _bars(ax, {title: found[region][side] for title, side in sides.items() if found[region][side] is not None})
        ax.set_title(f"Dice {region.upper()}")
        ax.set_xlim(0, 1)
    return figure


def _texture(found: Mapping[str, Any]) -> Figure:
    modalities = list(found["fine_structure"])
    figure, axes = _grid(1, 2, (13, 5))
    fine = {modality: found["fine_structure"][modality]["ratio"] for modality in modalities}
    bands = {f"{m}, {band}": found["grey_white"][m][band]["ratio"] for m in modalities for band in BANDS}
    for ax, title, shown in (
        (axes[0, 0], "fine structure over spread", fine),
        (axes[0, 1], "white less grey matter, by band", bands),
    ):
        _bars(ax, {name: ratio for name, ratio in shown.items() if ratio["value"] is not None})
        ax.axvline(1.0, color="black", linewidth=1)
        ax.set_title(title)
        ax.set_xlabel("samples over real cases")
    return figure


def _bars(ax: Any, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Values with their intervals, the first at the top."""
    for k, estimate in enumerate(found.values()):
        ax.barh(k, estimate["value"], color=SYNTHETIC, alpha=0.6)
        if estimate["low"] is not None:
            ax.plot([estimate["low"], estimate["high"]], [k, k], color="black", linewidth=1.5)
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()


def three_views(cohorts: Mapping[str, Cohort]) -> Figure:
    """The first cases of each cohort, as previews are drawn: the patient's right on the left, letters at the edges."""
    rows = [(side, cohort, case) for side, cohort in cohorts.items() for case in cohort.cases[:CASES_SHOWN]]
    modalities = rows[0][1].modalities
    figure, axes = _grid(len(rows), len(modalities) + 3, (2.2 * (len(modalities) + 3), 2.2 * len(rows)), pictures=True)
    for line, (side, cohort, case) in zip(axes, rows, strict=True):
        scan = _scan(np.asarray(cohort.slices(case)) / 255, np.asarray(cohort.label(case)), cohort)
        _show(line, panels(cropped([scan])[0]))
        line[0].set_title(f"{side}: {case}", fontsize=8)
    return figure


def _reconstruction(cohort: Cohort, autoencoder: Autoencoder) -> Figure:
    shown = cohort.cases[:CASES_SHOWN]
    columns = len(cohort.modalities) + 3
    figure, axes = _grid(3 * len(shown), columns, (2.2 * columns, 6.6 * len(shown)), pictures=True)
    for k, case in enumerate(shown):
        slices, label = np.asarray(cohort.slices(case)), np.asarray(cohort.label(case))
        made = autoencoder.reconstruct(slices, label)
        versions = [("real", slices / 127.5 - 1, label), ("coarse", made.coarse, made.label)]
        if made.refined is not None:
            versions.append(("refined", made.refined, made.label))
        scans = cropped([_scan((volume + 1) / 2, mask, cohort) for _, volume, mask in versions])
        cuts = widest_cuts(scans[0].label)
        for ax in axes[3 * k : 3 * k + 3].ravel():
            ax.axis("off")
        for line, (title, _, _), scan in zip(axes[3 * k :], versions, scans, strict=False):
            _show(line, panels(scan, cuts))
            line[0].set_title(f"{title}: {case}", fontsize=8)
    return figure


def _scan(volume: NDArray[np.floating], label: NDArray[np.uint8], cohort: Cohort) -> Scan:
    """A prepared case (z, modality, x, y) with labels (z, x, y) as it is drawn."""
    image = np.asarray(volume, np.float32).transpose(1, 2, 3, 0)
    return Scan(image, label.transpose(1, 2, 0), cohort.grid.spacing_mm)


def _show(axes: NDArray[Any], row: Sequence[Rgb]) -> None:
    for ax, picture in zip(axes, row, strict=True):
        ax.imshow(np.rint(picture).astype(np.uint8), interpolation="nearest")
        ax.axis("off")


def _grid(rows: int, columns: int, size: tuple[float, float], *, pictures: bool = False) -> tuple[Figure, NDArray[Any]]:
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=size, layout=None if pictures else "constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    if pictures:
        figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.2 / size[1], 0.03, 0.12)
    return figure, axes

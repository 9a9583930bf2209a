"""Plots as inline SVG: colours come from the page's style sheet, and what they show is told as text beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 300, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 38
_TICKS = 5
MAX_POINTS = 500
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_PADDING = 0.06  # of the range, beyond the points
_BINS = (8, 30)


@dataclass(frozen=True)
class _Axis:
    """Values low..high on pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> str:
        """The pixel of a value."""
        return f"{self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start):.1f}"

    def ticks(self) -> list[float]:
        """Round values within the range."""
        rough = (self.high - self.low) / _TICKS
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(s * scale for s in _STEPS if s * scale >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scatter(title: str, unit: str, pairs: NDArray[np.float64], names: Sequence[str], shown: frozenset[int]) -> Markup:
    """Requested against measured: one point a sample, its name on it, on the line where both are equal.

    `pairs`: (samples, 2), finite; `shown`: rows that are drawn as those of the viewer. Of many points every n-th.
    """
    low, high = _range(pairs)
    across, up = _axes((low, high), (low, high))
    every = math.ceil(len(pairs) / MAX_POINTS)
    parts = [_frame(across, up, f"requested{_in(unit)}", f"measured{_in(unit)}")]
    line = f'x1="{across.at(low)}" y1="{up.at(low)}" x2="{across.at(high)}" y2="{up.at(high)}"'
    parts.append(f'<line class="equal" {line}/>')
    for row, (requested, measured) in enumerate(pairs.tolist()):
        if row % every and row not in shown:
            continue
        told = f"{names[row]}: requested {requested:.4g}, measured {measured:.4g}{_in(unit)}"
        kind = "point shown" if row in shown else "point"
        place = f'cx="{across.at(requested)}" cy="{up.at(measured)}"'
        parts.append(f'<circle class="{kind}" {place} r="4"><title>{escape(told)}</title></circle>')
    return _svg(f"{title}: measured against requested", parts)


def histogram(title: str, unit: str, synthetic: NDArray[np.float64], real: NDArray[np.float64]) -> Markup:
    """Shares of the synthetic (bars) and of the real cases (line) by value; both (n,), finite, not empty."""
    both = np.concatenate([synthetic, real])
    low, high = _range(both)
    bins = int(np.clip(math.sqrt(min(len(synthetic), len(real))) * 2, *_BINS))
    edges = np.linspace(low, high, bins + 1)
    made, found = (np.histogram(values, edges)[0] / len(values) for values in (synthetic, real))
    across, up = _axes((low, high), (0.0, float(max(made.max(), found.max())) * 1.08))
    parts = [_frame(across, up, f"{title}{_in(unit)}", "share of cases")]
    sides = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    for (left, right), share in zip(sides, made.tolist(), strict=True):
        if share:
            height = float(up.at(0)) - float(up.at(share))
            width = float(across.at(right)) - float(across.at(left))
            size = f'width="{max(width - 1, 1):.1f}" height="{height:.1f}"'
            told = f"synthetic, {left:.4g} to {right:.4g}: {share:.0%}"
            parts.append(
                f'<rect class="bar" x="{across.at(left)}" y="{up.at(share)}" {size}><title>{told}</title></rect>'
            )
    corners = [f"{across.at(low)},{up.at(0)}"]
    for (left, right), share in zip(sides, found.tolist(), strict=True):
        corners += [f"{across.at(left)},{up.at(share)}", f"{across.at(right)},{up.at(share)}"]
    corners.append(f"{across.at(high)},{up.at(0)}")
    parts.append(f'<polyline class="real" points="{" ".join(corners)}"/>')
    return _svg(f"{title}: synthetic and real cases", parts)


def _in(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = (high - low) * _PADDING or max(abs(high), 1.0) * _PADDING
    return low - room, high + room


def _axes(across: tuple[float, float], up: tuple[float, float]) -> tuple[_Axis, _Axis]:
    return _Axis(*across, _LEFT, _WIDTH - _RIGHT), _Axis(*up, _HEIGHT - _BOTTOM, _TOP)


def _frame(across: _Axis, up: _Axis, below: str, beside: str) -> str:
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    parts = []
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 14}" text-anchor="middle">{_number(tick)}</text>')
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{left - 5}" y="{y}" dy="3.5" text-anchor="end">{_number(tick)}</text>')
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    turned = f'transform="translate(11 {middle_y}) rotate(-90)"'
    place = f'x="{middle_x}" y="{_HEIGHT - 6}"'
    parts.append(f'<text class="axis" {place} text-anchor="middle">{escape(below)}</text>')
    parts.append(f'<text class="axis" {turned} text-anchor="middle">{escape(beside)}</text>')
    return "".join(parts)


def _number(tick: float) -> str:
    return f"{tick:.6g}".replace("-", "−")


def _svg(title: str, parts: list[str]) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(parts) + "</svg>")

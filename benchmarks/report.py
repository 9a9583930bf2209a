"""A benchmark's result as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from .bench import BenchResult, ComponentFigure, PointFigure
from .timing import Timing

BUSY_MARK = "*"


def tables(result: BenchResult) -> str:
    """Markdown tables of everything that was measured; `*` marks figures taken on a busy machine."""
    parts = [_head(result), _gates(result), _components(result.components), _points(result.points), _processes(result)]
    if any(f.timing.busy for f in [*result.components, *result.points]):
        parts.append(f"{BUSY_MARK} other processes took the processor in every run of this figure: it says little")
    if not result.complete:
        parts.append("INCOMPLETE: the benchmark was interrupted")
    return "\n\n".join(part for part in parts if part)


def _head(result: BenchResult) -> str:
    lines = [f"{result.bundle['id']} ({result.bundle['sha256'][:12]}), {result.date}, {result.system}"]
    if result.machine is not None:
        m = result.machine
        peak = "not measured" if m.fma_peak.gflops is None else f"{m.fma_peak.gflops:.0f} GFLOP/s"
        driver = f", driver {m.gpu_driver}" if m.gpu_driver else ""
        lines.append(f"{m.cpu}, {m.threads} threads, {m.memory_gib} GiB, GPU {m.gpu or 'none'}{driver}")
        lines.append(f"float32 multiply-add peak: {peak} ({m.fma_peak.how})")
    lines += [f"joules of {part}: {how}" for part, how in result.energy.items()]
    lines.append(", ".join(f"{name} {version}" for name, version in result.versions.items()))
    return "\n".join(lines)


def _gates(result: BenchResult) -> str:
    rows = [[g.backend, g.precision, "passed" if g.passed else "FAILED, not timed", g.reason] for g in result.gates]
    return _table(["backend", "precision", "parity gate", "why"], rows)


def _components(figures: Sequence[ComponentFigure]) -> str:
    rows = [
        [
            f.component,
            f.backend,
            _milliseconds(f.timing),
            f"{1000 * f.timing.fastest:.1f}-{1000 * f.timing.slowest:.1f}",
            f.clock,
            "" if f.gmac is None else f"{f.gmac:.2f}",
            "" if f.fma_share is None else f"{100 * f.fma_share:.0f} %",
        ]
        for f in figures
    ]
    return _table(["component", "backend", "ms a call", "spread", "clock", "GMAC", "of fp32 peak"], rows)


def _points(figures: Sequence[PointFigure]) -> str:
    rows = [
        [
            f"{f.point.backend} {f.precision}",
            f"{f.point.sampler} {f.point.steps}",
            str(f.point.batch),
            f"{f.timing.seconds:.2f}{BUSY_MARK if f.timing.busy else ''}",
            f"{f.timing.fastest:.2f}-{f.timing.slowest:.2f}",
            f"{f.volumes_a_second:.3f}",
            " ".join(f"{stage} {seconds:.2f}" for stage, seconds in f.stage_seconds.items()),
            " ".join(f"{part} {e.joules:.1f} ({e.watts:.0f} W)" for part, e in f.energy.items()),
            "identical" if f.quality.psnr_db is None else f"{f.quality.psnr_db:.1f}",
            " ".join(f"{name} {value:.3f}" for name, value in f.quality.dice.items()),
            _optional(f.quality.volume_error, "{:.1%}"),
            _optional(f.quality.centre_error_mm, "{:.1f}"),
            str(f.quality.without_tumour),
            str(f.quality.off_volume),
        ]
        for f in figures
    ]
    heads = [
        "backend",
        "sampler, steps",
        "batch",
        "s a volume",
        "spread",
        "volumes/s",
        "stages, s a volume",
        "J a volume",
    ]
    return _table([*heads, "PSNR dB", "Dice", "volume error", "centre error mm", "no tumour", "off by 20 %"], rows)


def _processes(result: BenchResult) -> str:
    rows = [[p.backend, f"{p.seconds:.1f}", f"{p.peak_mib:.0f}", f"{p.other_cores:.2f}"] for p in result.processes]
    return _table(["generate --count 1", "s in all", "peak MiB resident", "cores of others"], rows)


def _milliseconds(timing: Timing) -> str:
    return f"{1000 * timing.seconds:.1f}{BUSY_MARK if timing.busy else ''}"


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

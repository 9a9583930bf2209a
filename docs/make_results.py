"""Write docs/results.md from what `bench --submit` wrote into benchmarks/results: `python docs/make_results.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results by machine

Written by `python docs/make_results.py` from what [`bench --submit`](benchmarks.md#give-your-machines-figures) wrote;
how figures are measured stands there, too. One machine's figures are compared with another's here; what is compared in
one run stands in [benchmarks.md](benchmarks.md).

`*`: other processes took the processor in every run of the figure, so it says little. Joules are those of the whole
processor and the whole board while a volume was made, idling included. PSNR and the Dice of the worst label: to 250
steps, or as many as the command says, on the reference backend.
"""
NONE = "No submission is here yet.\n"
AT_DEFAULTS = (
    "machine",
    "GPU",
    "bundle",
    "backend",
    "batch",
    "s a volume",
    "volumes/s",
    "J a volume",
    "peak MiB",
    "file",
)
POINTS = ("backend", "sampler, steps", "batch", "s a volume", "spread", "J a volume", "watts", "PSNR dB", "Dice")
COMPONENTS = ("component", "backend", "ms a call", "spread", "clock", "calls a volume", "GMAC")
Figures = dict[str, Any]


def page(folder: Path = RESULTS) -> str:
    """The page's text, of the submissions in a folder, by date and name."""
    found = submissions(folder)
    if not found:
        return f"{HEAD}\n{NONE}"
    rows = [row for name, data in found.items() for row in _at_defaults(name, data)]
    parts = [HEAD, "## With each bundle's own steps\n", _table(AT_DEFAULTS, rows)]
    for name, data in found.items():
        parts += _section(name, data)
    return "\n".join(parts)


def submissions(folder: Path) -> dict[str, Figures]:
    """Those of a folder by file name, without its other JSON files."""
    read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    made = {name: data for name, data in read.items() if isinstance(data, dict) and "submission" in data}
    return dict(sorted(made.items(), key=lambda item: (item[1]["date"], item[0])))


def _at_defaults(name: str, data: Figures) -> Iterator[Sequence[str]]:
    machine, default = data["machine"], data["default"]
    memory = {process["backend"]: f"{process['peak_mib']:.0f}" for process in data["processes"]}
    for figure in data["points"]:
        point = figure["point"]
        if (point["sampler"], point["steps"]) == (default["sampler"], default["steps"]):
            yield (
                f"{machine['cpu']}, {_cores(data)}", machine["gpu"] or "", data["bundle"]["id"],
                f"{point['backend']} {figure['precision']}", str(point["batch"]), _seconds(figure["timing"], 1, 2),
                f"{figure['volumes_a_second']:.3f}", _energy(figure, "joules"), memory.get(point["backend"], ""),
                f"[{data['date']}](#{_anchor(name)})",
            )  # fmt: skip


def _section(name: str, data: Figures) -> Iterator[str]:
    machine, bundle = data["machine"], data["bundle"]
    yield f"## {_title(name)}\n"
    yield f"```\n{data['command']}\n```\n"
    facts = [f"{data['date']}; {machine['cpu']}, {_cores(data)} used, {machine['memory_gib']} GiB"]
    if (peak := machine["fma_peak"]["gflops"]) is not None:
        facts[0] += f", float32 peak {peak:.0f} GFLOP/s"
    facts.append(data["operating_system"])
    if machine["gpu"]:
        facts.append(f"GPU: {machine['gpu']}, {machine['gpu_memory_gib']} GiB, driver {machine['gpu_driver']}")
    facts.append(f"bundle {bundle['id']}, sha256 `{bundle['sha256']}`")
    facts.append(", ".join(f"{package} {version}" for package, version in data["versions"].items()))
    facts += [f"joules of {part}: {how}" for part, how in data["energy"].items()]
    facts += [f"{gate['backend']} not timed: {gate['reason']}" for gate in data["gates"] if not gate["passed"]]
    if data["samples"]["busy"]:
        facts.append(f"**busy**: {data['samples']['busy']} of {data['samples']['taken']} samples")
    yield "\n".join(f"- {fact}" for fact in facts) + "\n"
    yield _table(POINTS, [_point(figure) for figure in data["points"]])
    yield _table(COMPONENTS, [_component(figure) for figure in data["components"]])


def _point(figure: Figures) -> Sequence[str]:
    point, timing, quality = figure["point"], figure["timing"], figure["quality"]
    psnr = "identical" if quality["psnr_db"] is None else f"{quality['psnr_db']:.1f}"
    return (
        f"{point['backend']} {figure['precision']}", f"{point['sampler']} {point['steps']}", str(point["batch"]),
        _seconds(timing, 1, 2), f"{timing['fastest']:.2f}-{timing['slowest']:.2f}", _energy(figure, "joules"),
        _energy(figure, "watts"), psnr, f"{min(quality['dice'].values()):.3f}",
    )  # fmt: skip


def _component(figure: Figures) -> Sequence[str]:
    timing = figure["timing"]
    return (
        figure["component"], figure["backend"], _seconds(timing, 1000, 1),
        f"{1000 * timing['fastest']:.1f}-{1000 * timing['slowest']:.1f}", figure["clock"], f"{figure['a_volume']:g}",
        "" if figure["gmac"] is None else f"{figure['gmac']:.2f}",
    )  # fmt: skip


def _seconds(timing: Figures, scale: float, digits: int) -> str:
    return f"{scale * timing['seconds']:.{digits}f}{'*' if timing['busy_runs'] == timing['runs'] else ''}"


def _energy(figure: Figures, unit: str) -> str:
    return ", ".join(f"{part} {energy[unit]:.0f}" for part, energy in figure["energy"].items())


def _cores(data: Figures) -> str:
    return f"{data['threads']} core{'' if data['threads'] == 1 else 's'}"


def _title(name: str) -> str:
    return name.removesuffix(".json")


def _anchor(name: str) -> str:
    return "".join(c for c in _title(name).lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

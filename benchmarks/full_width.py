"""Presets at full width with random weights: through the export's gate, then through TensorRT-RTX's builder.

python -m sbldm.benchmarks.full_width [--presets isbi2024,cmig2025] [--precisions fp32,fp16]
    [--capabilities 80,86,89,120] [--out FILE.md]

Each preset becomes a training directory of random networks, which `export` turns into a bundle; a bundle exists only
where the parity gate was passed. Every component is then parsed and built for each compute capability, which needs no
GPU. The Markdown tables are written anew after each bundle, so that an interrupted run keeps what it has. Takes minutes
for each bundle and a few GB of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..engine.backends.tensorrt.build import BuildRequest, Flavour, build_engine, check_target, load_flavour
from ..engine.bundle.load import Bundle
from ..engine.conditions.columns import fit_columns, sphere_surface_cm2
from ..engine.conditions.distribution import fit
from ..engine.cuda.shapes import rows_of
from ..engine.errors import InvalidInputError, SbldmError
from ..engine.processor import available_threads, cpu_name
from ..export.bundle import ExportOptions, export_bundle
from ..export.rewrite.precision import PRECISIONS, Precision
from ..train.config import AnySystem, MaskFirstConfig, load_preset
from ..train.latents import condition_names
from ..train.mask_first import save_random_mask_first
from ..train.trained import save_random_system

PRESETS = "isbi2024,cmig2025"
CAPABILITIES = "80,86,89,120"
VOLUMES = 4  # that the denoisers' engines take at once
CASES = 64  # random tumours that the condition columns are fitted to


@dataclass
class Proof:
    """One preset at one precision."""

    preset: str
    precision: str
    seconds: float  # of the export and its gate
    peak_gib: float  # of this process, the largest so far
    fault: str | None = None  # what the gate said
    parity: dict[str, Any] = field(default_factory=dict)
    builds: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # capability -> component -> figures


def random_checkpoint(directory: Path, config: AnySystem, seed: int = 0) -> None:
    """Write a training directory of random networks whose conditions are those of random ellipsoidal tumours."""
    names = condition_names(config)
    rows = random_tumours(config.grid.fov_mm, seed)[:, : len(names)]
    columns, cohort = fit_columns(rows, names), fit(rows, names, config.grid.fov_mm)
    if isinstance(config, MaskFirstConfig):
        save_random_mask_first(directory, config, columns, cohort, seed)
    else:
        save_random_system(directory, config, columns, cohort, seed)


def random_tumours(fov_mm: tuple[float, float, float], seed: int) -> NDArray[np.float64]:
    """Rows (CASES, 12) in the order of `engine.conditions.COLUMNS`."""
    random = np.random.default_rng(seed)
    semi_axes_mm = random.uniform(10, 25, (CASES, 1)) * random.uniform(0.8, 1.2, (CASES, 3))
    volume_ml = 4 / 3 * np.pi * semi_axes_mm.prod(axis=1) / 1000
    sphericity = random.uniform(0.75, 0.95, CASES)
    surface_cm2 = sphere_surface_cm2(volume_ml) / sphericity
    centre, box = random.uniform(0.35, 0.65, (CASES, 3)), 2 * semi_axes_mm / np.array(fov_mm)
    return np.column_stack([volume_ml, surface_cm2, sphericity, centre, box, random.dirichlet([3, 5, 4], CASES)])


def prove(
    checkpoint: Path, out: Path, precision: Precision, flavour: Flavour | None, capabilities: Sequence[str]
) -> Proof:
    """Export a training directory through the gate and build what came of it; a gate not passed is no error."""
    started = time.perf_counter()
    try:
        bundle = export_bundle(checkpoint, out, ExportOptions(precision), _say)
    except InvalidInputError as error:
        if "no bundle was written" not in str(error):
            raise
        return Proof(checkpoint.name, precision, time.perf_counter() - started, _peak_gib(), str(error))
    proof = Proof(checkpoint.name, precision, time.perf_counter() - started, _peak_gib())
    parity = json.loads((bundle.path / "parity.json").read_bytes())
    proof.parity = parity if precision == "fp32" else parity["reduced"][precision]
    if flavour is not None:
        proof.builds = {capability: _build(bundle, flavour, capability) for capability in capabilities}
    return proof


def _builder(capabilities: Sequence[str]) -> Flavour:
    flavour = load_flavour("tensorrt_rtx")
    for capability in capabilities:
        check_target(flavour, capability)
    return flavour


def _build(bundle: Bundle, flavour: Flavour, capability: str) -> dict[str, dict[str, Any]]:
    built = {}
    for component in bundle.manifest.components:
        _say(f"building {component} for SM {capability}")
        path = bundle.component_path(component, bundle.precisions[-1])
        rows = rows_of(component, VOLUMES, bundle.manifest)
        blob, figures = build_engine(flavour, BuildRequest(path, rows, capability))
        built[component] = {"seconds": figures["build_seconds"], "bytes": len(blob)}
    return built


def tables(proofs: Sequence[Proof]) -> str:
    """Markdown: a row a component of each bundle, then a row a bundle for the whole volume."""
    capabilities = list(dict.fromkeys(capability for proof in proofs for capability in proof.builds))
    head = ["preset", "precision", "component", "largest", "RMS", *(f"SM {c}: s, MB" for c in capabilities)]
    lines = [_row(head), _row(["---"] * len(head))]
    for proof in proofs:
        figures = proof.parity.get("components", [])
        for name in dict.fromkeys(figure["component"] for figure in figures):
            mine = [figure for figure in figures if figure["component"] == name]
            worst = [f"{max(figure[key] for figure in mine):.1e}" for key in ("max_relative", "rms_relative")]
            engines = [proof.builds.get(capability, {}).get(name) for capability in capabilities]
            cells = [f"{e['seconds']:.1f}, {e['bytes'] / 1e6:.1f}" if e else "" for e in engines]
            lines.append(_row([proof.preset, proof.precision, name, *worst, *cells]))
    lines += ["", _row(["preset", "precision", "gate", "volume, 20 steps", "s", "peak GiB"]), _row(["---"] * 6)]
    for proof in proofs:
        volume = proof.parity.get("volume")
        said = ""
        if volume:
            psnr = "identical" if volume["psnr_db"] is None else f"{volume['psnr_db']:.1f} dB"
            said = f"{psnr}, Dice {min(volume['dice'].values()):.4f} or more"
        verdict = "passed" if proof.fault is None else f"failed: {' / '.join(proof.fault.splitlines()[1:])}"
        lines.append(
            _row([proof.preset, proof.precision, verdict, said, f"{proof.seconds:.0f}", f"{proof.peak_gib:.1f}"])
        )
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proofs; 0 where every gate was passed and every graph built, otherwise the exit code of the error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=PRESETS, help="names or YAML files, separated by commas")
    parser.add_argument("--precisions", default="fp32,fp16")
    parser.add_argument("--capabilities", default=CAPABILITIES, help="of the engines; empty: build none")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file; printed in any case")
    given = parser.parse_args(arguments)
    precisions, capabilities = given.precisions.split(","), [c for c in given.capabilities.split(",") if c]
    if not set(precisions) <= set(PRECISIONS):
        parser.error(f"--precisions {given.precisions}: allowed {', '.join(PRECISIONS)}")
    proofs: list[Proof] = []
    try:
        flavour = _builder(capabilities) if capabilities else None
        for name in given.presets.split(","):
            config = load_preset(name)
            with tempfile.TemporaryDirectory() as folder:
                checkpoint, out = Path(folder) / config.preset, Path(folder) / "bundle"
                random_checkpoint(checkpoint, config)
                for precision in precisions:
                    _say(f"{config.preset} {precision}")
                    proofs.append(prove(checkpoint, out, cast("Precision", precision), flavour, capabilities))
                    shutil.rmtree(out, ignore_errors=True)
                    if given.out is not None:
                        given.out.write_text(_text(proofs), encoding="utf-8")
    except SbldmError as error:
        _say(f"error: {error}")
        return error.exit_code
    print(_text(proofs))
    return 3 if any(proof.fault for proof in proofs) else 0


def _text(proofs: Sequence[Proof]) -> str:
    return f"Random weights; {cpu_name()}, {available_threads()} threads\n\n{tables(proofs)}"


if __name__ == "__main__":
    sys.exit(main())

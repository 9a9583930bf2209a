"""`sbldm-engine augment`: a real case under new conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._scans import Cavity, Labels, Orientation

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..engine.sampling.sdedit import SourceCase
    from ..engine.scans.options import ReadOptions


def augment(
    case: Annotated[Path, typer.Argument(help="Folder of one case: its modalities and segmentation, BraTS names.")],
    out: Annotated[Path, typer.Option("--out", help="New or empty directory.")],
    strength: Annotated[
        float, typer.Option("--strength", help="0 returns the reconstruction, 1 keeps nothing of the case.")
    ] = 0.5,
    count: Annotated[
        int | None, typer.Option("--count", help="Samples to make; default: one a row of --conditions.")
    ] = None,
    conditions: Annotated[
        Path | None, typer.Option("--conditions", help="CSV of wanted tumours; what it leaves open is drawn.")
    ] = None,
    bundle: Annotated[str, typer.Option("--bundle", help="Name of a shipped bundle, or a path.")] = "phantom",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the run.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps of the whole way; --strength takes its share of them.")
    ] = None,
    sampler: Annotated[str | None, typer.Option("--sampler", help="ddim or dpmpp-2m; default: the bundle's.")] = None,
    eta: Annotated[float | None, typer.Option("--eta", help="Noise of DDIM steps, 0 to 1.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Classifier-free guidance, 1 is none.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="auto, onnxruntime, openvino or tensorrt.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:I.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all.")] = None,
    layout: Annotated[str, typer.Option("--layout", help="brats, nnunet or bids.")] = "brats",
    grid: Annotated[str, typer.Option("--grid", help="native, or brats (240x240x155 at 1 mm).")] = "native",
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    preview: Annotated[bool, typer.Option("--preview", help="Write a contact sheet, preview.png.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings and errors only.")] = False,
) -> int:
    """Encode a real case, noise it up to --strength, sample back. Derived from a patient: protect it as such."""
    from ..engine.bundle.load import load_bundle
    from ..engine.run.job import Asked
    from ..engine.scans.options import read_options
    from ..engine.telemetry import EventLog, Telemetry
    from ._job import run_job

    options: dict[str, Any] = {
        "seed": seed, "steps": steps, "sampler": sampler, "eta": eta, "guidance": guidance,
        "layout": layout, "grid": grid,
    }  # fmt: skip
    log = EventLog()
    source, warnings = read_case(case, load_bundle(bundle), strength, read_options(labels, cavity, orientation))
    for warning in warnings:
        log.event(warning, "warning")
    asked = Asked(
        out, bundle, conditions, count, options, backend, device, threads=threads, resume=resume,
        source=source,
    )  # fmt: skip
    return run_job(asked, Telemetry(), log, quiet=quiet, preview=preview, as_json=as_json)


def read_case(
    folder: Path, bundle: Bundle, strength: float, options: ReadOptions
) -> tuple[SourceCase, tuple[str, ...]]:
    """The one case of a folder, brought to the bundle's grid, and what should be known of it.

    Raises:
        InvalidInputError: the folder holds no case, several, or a broken one.
    """
    import numpy as np

    from ..engine.bundle.manifest import INT16_SCALE
    from ..engine.errors import InvalidInputError
    from ..engine.sampling.sdedit import SourceCase
    from ..engine.scans.case import load_case, modalities_to_read
    from ..engine.scans.discover import discover_cases
    from ..engine.scans.prepare import LEVELS, prepare_case
    from ..engine.scans.read import CaseError, read_contents

    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such directory; give the folder of one case")
    modalities, grid = bundle.manifest.modalities, bundle.manifest.grid
    found = discover_cases(folder, modalities, options)
    if found.faults:
        raise InvalidInputError(
            "\n".join(f"{folder}: {name}: {text}" for name, faults in found.faults.items() for text in faults)
        )
    if len(found.cases) != 1:
        raise InvalidInputError(f"{folder}: holds {len(found.cases)} cases; give the folder of one")
    files = found.cases[0]
    try:
        contents = read_contents(files, modalities_to_read(files, modalities))
        loaded = load_case(files, modalities, contents, options, grid.fov_mm)
        prepared = prepare_case(loaded, grid)
    except CaseError as error:
        raise InvalidInputError("\n".join(f"{folder}: {text}" for text in error.faults)) from error
    image = np.rint(prepared.image.astype(np.float32) * (INT16_SCALE / LEVELS)).astype(np.int16)
    label = prepared.label if len(bundle.manifest.labels) > 2 else (prepared.label > 0).astype(np.uint8)
    return SourceCase(image, label, strength), (*found.notes, *loaded.warnings)

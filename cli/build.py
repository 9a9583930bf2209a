"""`sbldm-engine build`: TensorRT engines of a bundle ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._commands import PRECISIONS, RequireSignature, bundles, choices

if TYPE_CHECKING:
    from ..engine.backends.tensorrt.build import Flavour
    from ..engine.backends.tensorrt.engines import Target


def build(
    bundle: Annotated[str, typer.Option(help="Bundle: a path or a shipped name.", autocompletion=bundles)] = "phantom",
    require_signature: RequireSignature = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Rows of the denoiser: --batch-size, twice that with guidance.")
    ] = 1,
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices of encoder and decoder; default: those that a run takes at once.")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="Build for another GPU, e.g. 89 or 8.9 (TensorRT-RTX only).")
    ] = None,
    cuda_driver: Annotated[
        str | None, typer.Option(help="With --compute-capability: the driver there, as `doctor` shows it (13000).")
    ] = None,
    flavour: Annotated[
        str | None, typer.Option(help="Default: what is installed.", **choices("tensorrt", "tensorrt_rtx"))
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of those that the bundle holds; tf32 needs fp32.", **choices(*PRECISIONS))
    ] = "auto",
    device: Annotated[int, typer.Option(min=0, help="GPU of this machine.")] = 0,
    workspace_mb: Annotated[int, typer.Option(min=16, help="Scratch memory that the builder may plan with.")] = 4096,
    cache_dir: Annotated[Path | None, typer.Option(help="Engine cache (default: the user's cache directory).")] = None,
    rebuild: Annotated[bool, typer.Option(help="Build again what is cached.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build and cache the engines; an engine is used only where its whole key matches."""
    import json
    from contextlib import nullcontext

    from ..engine.backends.choose import gpu_precision
    from ..engine.backends.tensorrt.build import load_flavour
    from ..engine.backends.tensorrt.cache import EngineCache
    from ..engine.backends.tensorrt.engines import EngineSet
    from ..engine.bundle.load import load_bundle
    from ..engine.cuda.gpu import CudaDevice
    from ..engine.cuda.shapes import SLICE_COMPONENTS, rows_of

    _check(flavour, compute_capability, cuda_driver)
    model = load_bundle(bundle, require_signature)
    builder = load_flavour(flavour)
    target = _target(builder, device, compute_capability, cuda_driver)
    engines = EngineSet(
        model, builder, target, EngineCache(cache_dir), workspace_mb << 20, lambda text: typer.echo(text, err=True),
        gpu_precision(model, precision, "tensorrt"),
    )  # fmt: skip
    gpu = CudaDevice(device) if target.present else None
    rows = []
    for component in model.manifest.components:
        size = slices if slices and component in SLICE_COMPONENTS else rows_of(component, batch, model.manifest)
        with nullcontext() if gpu is None else gpu.current():
            engine = engines.prepare(component, size, rebuild)
            figures = engine.figures if gpu is None else engines.open(component, size, gpu)[1]
        rows.append({"component": component, "path": str(engine.path), "built": engine.built, **figures})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        how = f"built in {row['build_seconds']:.1f} s" if row["built"] else "cached"
        typer.echo(f"{row['component']:<18} {row['engine_bytes'] / 2**20:8.1f} MiB  {how}  {row['path']}")


def _check(flavour: str | None, compute_capability: str | None, cuda_driver: str | None) -> None:
    """UsageError where options contradict each other."""
    from ..engine.backends.tensorrt.build import FLAVOURS
    from ..engine.errors import UsageError

    if flavour is not None and flavour not in FLAVOURS:
        raise UsageError(f"--flavour {flavour}: allowed {', '.join(FLAVOURS)}")
    if cuda_driver is not None and compute_capability is None:
        raise UsageError("--cuda-driver belongs to --compute-capability; this machine's driver is known")


def _target(builder: Flavour, device: int, compute_capability: str | None, cuda_driver: str | None) -> Target:
    """The GPU that engines are built for: one of this machine, or another."""
    from ..engine.backends.tensorrt.build import normalise_capability
    from ..engine.backends.tensorrt.engines import foreign_target, present_target

    if compute_capability is None:
        return present_target(device)
    return foreign_target(builder, normalise_capability(compute_capability), cuda_driver)

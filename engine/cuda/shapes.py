"""Which components of a bundle run on a device, and the shapes of their batches there."""

from __future__ import annotations

from ..bundle.load import Bundle
from ..bundle.manifest import BundleManifest
from ..sampling.decoding import DECODER_SLICES
from ..sampling.slabs import SLABS_AT_ONCE
from .loop import LoopShape

SAMPLED = ("denoiser", "aggregator", "decoder", "refiner")
"""The components that generation in the form of slices runs; a preset may lack the last."""

STAGES = ("mask_denoiser", "denoiser")
"""Those of the mask-first form whose steps are taken on a device; the host has the midst of it."""

SLICE_COMPONENTS = frozenset({"encoder", "decoder"})  # axis 0 counts slices or slabs, not volumes
_EACH_STEP = frozenset({"sample", "timestep", "condition_mask"})  # inputs of a denoiser that say nothing of the sample


def loop_shape(manifest: BundleManifest, component: str, samples: int, guided: bool) -> LoopShape:
    """What the loop around a denoiser needs memory for."""
    shapes = {tensor.name: tuple(map(int, tensor.shape[1:])) for tensor in manifest.components[component].inputs}
    told = {name: shape for name, shape in shapes.items() if name not in _EACH_STEP}
    return LoopShape(samples, shapes["sample"], told, guided)


def stage_shapes(manifest: BundleManifest, samples: int, guided: bool) -> dict[str, LoopShape]:
    """Of the loops of a bundle by denoiser; `guided` is the image's, a mask stage has its own guidance."""
    form = manifest.mask_first
    if form is None:
        return {"denoiser": loop_shape(manifest, "denoiser", samples, guided)}
    guidance = {"mask_denoiser": form.mask_sampling.guidance != 1.0, "denoiser": guided}
    return {name: loop_shape(manifest, name, samples, guidance[name]) for name in STAGES}


def device_rows(manifest: BundleManifest, samples: int, guided: bool) -> dict[str, int]:
    """The components that run on a device for batches of so many samples, with the rows of their batches."""
    found = {name: shape.rows for name, shape in stage_shapes(manifest, samples, guided).items()}
    if manifest.mask_first is None:
        others = [name for name in SAMPLED if name in manifest.components and name not in found]
        found |= {name: rows_of(name, found["denoiser"], manifest) for name in others}
    return found


def rows_of(component: str, denoiser_rows: int, manifest: BundleManifest) -> int:
    """Rows of a component's runs on a device: the denoiser's batch, a chunk of slices or slabs, one volume."""
    if component in STAGES:
        return denoiser_rows
    return decoder_rows(manifest) if component in SLICE_COMPONENTS else 1


def decoder_rows(manifest: BundleManifest) -> int:
    """Slices, or slabs, that encoder and decoder take at once: as on a CPU at most, and a volume in equal parts."""
    form = manifest.mask_first
    whole = manifest.grid.shape[2] // (1 if form is None else form.slab_slices)
    most = DECODER_SLICES if form is None else SLABS_AT_ONCE
    return max(rows for rows in range(1, min(whole, most) + 1) if whole % rows == 0)


def decoder_latent_shape(bundle: Bundle) -> tuple[int, int, int]:
    """(c, h, w) of the decoder's input, from its tensor specification (S, c, h, w)."""
    (spec,) = (tensor for tensor in bundle.manifest.components["decoder"].inputs if tensor.name == "latent")
    _, channels, height, width = spec.shape
    return int(channels), int(height), int(width)

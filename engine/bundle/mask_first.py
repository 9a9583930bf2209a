"""The tensors of the mask-first form: the one place where export, manifest and engine agree on them.

Axis 0 is the batch. Depth comes before x and y. A slab is `slab_slices` neighbouring slices of all modalities as
channels, slice first: channel = slice in slab * modalities + modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from ..anatomy.anatomies import anatomies_sha256
from ..anatomy.draft import HEALTHY
from ..anatomy.shares import LEADING
from ..conditions.columns import COLUMNS
from .fitted import sampling_faults
from .manifest import MAX_VOXELS, TISSUES, BundleManifest, ComponentSpec, Grid, TensorSpec

BATCH = "batch"

Tensors = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]  # inputs, outputs


def mask_first_tensors(
    grid: Grid,
    modalities: int,
    slab_slices: int,
    latent: Sequence[int],
    maps: Sequence[int],
    features: Sequence[int],
) -> dict[str, Tensors]:
    """Inputs and outputs of every component, in the order of `COMPONENT_OUTPUTS`.

    Args:
        grid: of the volume.
        modalities: how many.
        slab_slices: slices of a slab.
        latent: (C, S, h, w) of Z, S slabs.
        maps: (map, z, x, y) of the distance maps.
        features: (F, height, width) between slab and Z.
    """
    x, y, z = grid.shape
    image = _float("image", slab_slices * modalities, x, y)
    slab = _float("features", *features)
    volume = _float("features", latent[1], *features)
    timestep, shown = _float("timestep"), _float("condition_mask")
    maps_state = (_float("sample", *maps), timestep, _float("condition", len(COLUMNS)), shown)
    tissues = _float("tissues", len(TISSUES), z, x, y)
    slices = (z, modalities, x, y)
    image_state = (_float("sample", *latent), timestep, tissues, _float("draft", *latent), _float("source"), shown)
    return {
        "encoder": ((image,), (slab,)),
        "aggregator_encode": ((volume,), (_float("latent", *latent),)),
        "mask_denoiser": (maps_state, (_float("prediction", *maps),)),
        "denoiser": (image_state, (_float("prediction", *latent),)),
        "aggregator": ((_float("latent", *latent),), (volume,)),
        "decoder": ((slab,), (image, _float("brain", slab_slices, x, y))),
        "refiner": ((_float("image", *slices), _float("draft", *slices)), (_float("refined", *slices),)),
    }


def mask_first_faults(m: BundleManifest) -> Iterator[str]:
    """What keeps the manifest of a mask-first bundle from being one, a line each; its components are all there."""
    said = m.mask_first
    if said is None:
        yield "mask_first: is null, a bundle of the form mask-first needs it"
        return
    if m.labels != ("background", *TISSUES):
        yield f"labels {m.labels}: the mask is made of background, {', '.join(TISSUES)}"
    if m.cohort.columns != COLUMNS:
        yield f"condition_columns: the mask needs all of {', '.join(COLUMNS)}"
    steps = len(m.schedule.alphas_cumprod)
    yield from sampling_faults("mask_first.mask_sampling", said.mask_sampling, "mask_first", said.fitted, steps)
    if said.source not in (0.0, 1.0):
        yield f"mask_first.source {said.source:g}: must be 1 (real scans) or 0 (phantoms)"
    if missing := [name for name in LEADING if name not in m.modalities]:
        yield f"modalities: {', '.join(missing)} missing, which tell the tissues of a scan apart"
    if said.anatomies != anatomies_sha256():
        yield "mask_first.anatomies: the model was trained with other brains than this version of sbldm-engine has"
    rows, width = len(HEALTHY) + len(TISSUES), len(m.modalities)
    if len(said.draft_levels) != rows or any(len(row) != width for row in said.draft_levels):
        yield f"mask_first.draft_levels: needs {rows} tissues of {width} modalities each"
    elif not all(0 <= level <= 1 for row in said.draft_levels for level in row):
        yield "mask_first.draft_levels: must be from 0 to 1"
    if len(said.grain) != width:
        yield f"mask_first.grain: needs {width} modalities"
    elif not all(0 <= deviation <= 1 for pair in said.grain for deviation in pair):
        yield "mask_first.grain: must be from 0 to 1"
    maps = said.mask_maps
    if not len(maps.mean) == len(maps.std) == len(TISSUES) or min(maps.std) <= 0:
        yield f"mask_first.mask_maps: needs {len(TISSUES)} means and {len(TISSUES)} deviations above 0"
    if any(n % 2 for n in m.grid.shape):
        yield f"grid.shape {m.grid.shape}: must be even, as the surface's noise is on half the grid"
    slabs = m.latent.shape[1] if len(m.latent.shape) == 4 else 0
    if slabs * said.slab_slices != m.grid.shape[2]:
        yield (
            f"latent.shape {m.latent.shape}: needs four axes, the second the slabs of {said.slab_slices} slices in "
            f"grid.shape {m.grid.shape}"
        )
        return
    if maps.shape[0] != len(TISSUES) or min(maps.shape) < 1 or prod(maps.shape) > MAX_VOXELS:
        yield f"mask_first.mask_maps.shape {maps.shape}: must be {len(TISSUES)} maps, at most {MAX_VOXELS} voxels"
        return
    yield from _tensor_faults(m.components, _expected(m))


def _expected(m: BundleManifest) -> Mapping[str, Tensors]:
    said = m.mask_first
    assert said is not None
    features = [n for spec in m.components["decoder"].inputs[:1] for n in spec.shape[1:] if isinstance(n, int)]
    return mask_first_tensors(
        m.grid, len(m.modalities), said.slab_slices, m.latent.shape, said.mask_maps.shape, features
    )


def _tensor_faults(components: Mapping[str, ComponentSpec], expected: Mapping[str, Tensors]) -> Iterator[str]:
    for name, found in components.items():
        sides = expected[name]
        for kind, specs, wanted in zip(("inputs", "outputs"), (found.inputs, found.outputs), sides, strict=True):
            if specs != wanted:
                yield f"components.{name}.{kind}: are {_listed(specs)}, must be {_listed(wanted)}"


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in specs) or "none"


def _float(name: str, *tail: int) -> TensorSpec:
    return TensorSpec(name, (BATCH, *tail), "float32")

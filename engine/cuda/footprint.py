"""What a batch needs of a GPU's memory, buffer by buffer, computed before any of it is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ...kernels.calls import statistics_blocks_count
from ...kernels.statistics import COLUMNS
from ..bundle.load import Bundle, component_precision
from ..errors import DeviceMemoryError
from .loop import LoopShape
from .shapes import SAMPLED, decoder_latent_shape, decoder_rows, stage_shapes
from .volumes import BUFFERS

MOST_SAMPLES = 32
"""Of a batch by default: a GPU is full before."""

MOST_STAGED = 8
"""Of a batch by default in the mask-first form: the host solves and paints between its stages."""

_FLOAT, _WORD = 4, 4
_LIVE_LATENTS = 64  # estimate of a denoiser's activations, in latents a row: 16 times the channels, four tensors alive
_LIVE_SLICES = 24  # of the decoder's, in images a slice
_SHARE = 0.5  # of a card's memory that a batch may take by default


@dataclass(frozen=True)
class Footprint:
    """Bytes on a GPU by what they are for. `buffers` are exact, `networks` weights and an estimate of activations."""

    buffers: dict[str, int]
    networks: dict[str, int]

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.buffers.values()) + sum(self.networks.values())

    def table(self) -> str:
        """A line a buffer, the largest first."""
        rows = sorted({**self.buffers, **self.networks}.items(), key=lambda row: -row[1])
        return "\n".join(f"{name:<28} {size / 2**20:10.1f} MiB" for name, size in [*rows, ("together", self.total)])


def footprint(bundle: Bundle, samples: int, guided: bool, precision: str = "fp32") -> Footprint:
    """Of a loop over batches of `samples` samples, `guided` or not."""
    manifest = bundle.manifest
    shapes = stage_shapes(manifest, samples, guided)
    loops = {name: _loop_buffers(shape) for name, shape in shapes.items()}
    if manifest.mask_first is None:
        buffers = _volume_buffers(bundle, samples, loops["denoiser"])
    else:
        buffers = {f"{stage}: {name}": size for stage, loop in loops.items() for name, size in loop.items()}
    return Footprint(buffers, _networks(bundle, shapes, precision))


def _loop_buffers(shape: LoopShape) -> dict[str, int]:
    """Of one `SamplingLoop`."""
    rows, latent = shape.rows, prod(shape.latent)
    told = sum(prod(tail) for tail in shape.told.values())
    return {
        "denoiser input": rows * latent * _FLOAT,
        "prediction": rows * latent * _FLOAT,
        "state": shape.samples * latent * _FLOAT,
        "previous x0": shape.samples * latent * _FLOAT,
        "conditions, slots, flags": rows * (told + 2) * _FLOAT + shape.samples * 5 * _WORD + 2 * _WORD,
    }


def _volume_buffers(bundle: Bundle, samples: int, loop: dict[str, int]) -> dict[str, int]:
    """Of a `VolumeGenerator`, `BUFFERS` batches in flight."""
    manifest = bundle.manifest
    x, y, depth = manifest.grid.shape
    modalities, classes, voxels = len(manifest.modalities), len(manifest.labels), x * y * depth
    finished = {
        "images": samples * modalities * voxels * np.dtype(np.int16).itemsize,
        "labels": samples * voxels,
        "statistics": samples * modalities * len(COLUMNS) * _WORD,
    }
    decoder = {
        "slice latents": depth * prod(decoder_latent_shape(bundle)) * _FLOAT,
        "decoded image": modalities * voxels * _FLOAT,
        "label logits": classes * voxels * _FLOAT,
        "positions, partial statistics": depth * 8
        + modalities * statistics_blocks_count(voxels) * len(COLUMNS) * _WORD,
    }
    if bundle.has("refiner"):
        decoder |= {"one-hot labels": classes * voxels * _FLOAT, "refined image": modalities * voxels * _FLOAT}
    twice = {f"{BUFFERS} x {name}": BUFFERS * size for name, size in {**loop, **finished}.items()}
    return {**twice, **decoder}


def _networks(bundle: Bundle, shapes: Mapping[str, LoopShape], precision: str) -> dict[str, int]:
    manifest = bundle.manifest
    names = [name for name in SAMPLED if bundle.has(name)] if manifest.mask_first is None else manifest.components
    weights = sum(_weight_bytes(bundle, name, precision) for name in names)
    x, y, _ = manifest.grid.shape
    slab = 1 if manifest.mask_first is None else manifest.mask_first.slab_slices
    slices = (len(manifest.modalities) + len(manifest.labels)) * x * y * slab * decoder_rows(manifest)
    activations = {
        f"{name} activations (estimate)": _LIVE_LATENTS * shape.rows * prod(shape.latent) * _width(name, precision)
        for name, shape in shapes.items()
    }
    decoder = _LIVE_SLICES * slices * _width("decoder", precision)
    return {"weights": weights, **activations, "decoder activations (estimate)": decoder}


def _width(component: str, precision: str) -> int:
    """Bytes of a number between a component's layers."""
    return _FLOAT if component_precision(component, precision) in ("fp32", "tf32") else 2


def _weight_bytes(bundle: Bundle, component: str, precision: str) -> int:
    """Of a component, at most: a graph in 16 bits may read all of its weights from the plain one."""
    plain, file = bundle.manifest.components[component].file, bundle.component_file(component, precision)
    own = bundle.manifest.files[file].bytes
    return own if file == plain else own + bundle.manifest.files[plain].bytes


def default_samples(bundle: Bundle, guided: bool, total_bytes: int, precision: str = "fp32") -> int:
    """Samples of a batch on a card of so much memory, in use or not, so that equal cards agree: a power of two."""
    samples = MOST_SAMPLES if bundle.manifest.mask_first is None else MOST_STAGED
    while samples > 1 and footprint(bundle, samples, guided, precision).total > _SHARE * total_bytes:
        samples //= 2
    return samples


def require_room(bundle: Bundle, samples: int, guided: bool, free: int, total: int, precision: str = "fp32") -> None:
    """DeviceMemoryError, with the table, where buffers and weights alone are more than a card has free."""
    needed = footprint(bundle, samples, guided, precision)
    least = sum(needed.buffers.values()) + needed.networks["weights"]
    if least <= free:
        return
    one = footprint(bundle, 1, guided, precision)
    smallest = sum(one.buffers.values()) + one.networks["weights"]
    way = (
        "give a smaller --batch-size"
        if smallest <= free
        else f"one sample needs {smallest / 2**20:.0f} MiB: take another GPU, or end what else runs on this one"
    )
    raise DeviceMemoryError(
        f"a batch of {samples} needs more than {least / 2**20:.0f} MiB, the GPU has {free / 2**20:.0f} of "
        f"{total / 2**20:.0f} MiB free; {way}\n{needed.table()}"
    )

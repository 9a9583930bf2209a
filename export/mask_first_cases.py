"""Inputs of a mask-first system's components that belong together: a ball with three tissues, and a real case's image.

The ball's maps and conditions are as a training mask's; the denoisers get them as noisy as they are early, middle and
late. What needs an image is made of one real case's latents, where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import BundleManifest, Grid, NoiseSchedule
from ..engine.conditions.columns import COLUMNS, normalise
from ..engine.output.measure import measure_tumour
from ..engine.sampling.batch import Batch
from ..engine.sampling.mask_first import MaskFirstModel
from ..engine.sampling.slabs import SLABS_AT_ONCE, decode_slabs
from ..engine.sampling.types import Arrays, RunComponent, SampleRequest, Told
from ..train.data.mask_maps import distance_maps
from .cases import Cases, noisy, places

SHELLS = (0.16, 0.10, 0.06)  # radii of oedema, rim and necrosis in shares of the grid
OFF_CENTRE = (0.55, 0.45, 0.5)  # where the ball lies


def mask_first_cases(
    reference: RunComponent, manifest: BundleManifest, real: NDArray[np.float32] | None
) -> dict[str, Cases]:
    """Inputs by component and name.

    Args:
        reference: computes what follows from the latents.
        manifest: of the bundle to be.
        real: normalised Z (1, C, S, h, w) of a case, or None.
    """
    ball = ball_label(manifest.grid)
    made = {"mask_denoiser": _maps_cases(ball, manifest)}
    if real is None:
        return made
    told = _told(reference, manifest, ball)
    shown: Arrays = {**told.feeds, "source": np.ones(1, np.float32)}
    features = reference("aggregator", {"latent": real})["features"]
    slabs = {"features": features[0, :SLABS_AT_ONCE]}
    image = {"image": np.clip(reference("decoder", slabs)["image"], -1.0, 1.0)}
    if "refiner" in manifest.components:
        coarse, _ = decode_slabs(reference, features[0], len(manifest.modalities))
        assert told.drafts is not None
        made["refiner"] = {"real latents, decoded": {"image": np.clip(coarse, -1.0, 1.0)[None], "draft": told.drafts}}
    return made | {
        "denoiser": _timed("real latents", manifest.schedule, real, shown),
        "aggregator": {"real latents": {"latent": real}},
        "aggregator_encode": {"real latents, decoded": {"features": features}},
        "decoder": {"real latents": slabs},
        "encoder": {"real latents, decoded": image},
    }


def _told(reference: RunComponent, manifest: BundleManifest, label: NDArray[np.uint8]) -> Told:
    """What is told of a fixed request with a mask."""
    said = manifest.mask_first
    assert said is not None
    request = SampleRequest(0, 0, np.zeros(len(COLUMNS), np.float32), label=label)
    return MaskFirstModel.of(manifest, said).tell(reference, Batch([request], 1, seed=0), None)


def ball_label(grid: Grid) -> NDArray[np.uint8]:
    """(x, y, z): necrosis (1) in a rim (3) in oedema (2), all balls."""
    axes = [(np.arange(n, dtype=np.float32) + 0.5) / n - place for n, place in zip(grid.shape, OFF_CENTRE, strict=True)]
    distance = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    label = np.zeros(grid.shape, np.uint8)
    for value, radius in zip((2, 3, 1), SHELLS, strict=True):
        label[distance < radius] = value
    return label


def _maps_cases(ball: NDArray[np.uint8], manifest: BundleManifest) -> Cases:
    said = manifest.mask_first
    assert said is not None
    _, z, x, y = said.mask_maps.shape
    maps = distance_maps(ball, manifest.grid.spacing_mm, (x, y, z))[None]
    state = (maps - _each(said.mask_maps.mean)) / _each(said.mask_maps.std)
    row = measure_tumour(ball, manifest.grid.spacing_mm).vector(COLUMNS)[None]
    told: Arrays = {"condition": normalise(row, manifest.condition_columns).astype(np.float32)}
    return _timed("a ball", manifest.schedule, state, told)


def _timed(called: str, schedule: NoiseSchedule, clean: NDArray[np.float32], told: Arrays) -> Cases:
    return {
        f"{called} {place}, t {timestep}": {
            "sample": noisy(schedule, clean, timestep),
            "timestep": np.array([timestep], np.float32),
            "condition_mask": np.ones(1, np.float32),
            **told,
        }
        for place, timestep in places(len(schedule.alphas_cumprod))
    }


def _each(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None, None, None]

"""The form that makes the mask first: conditions -> distance maps -> label -> a drafted brain around it -> image.

The draft is told twice: encoded, to the denoiser, and as it is to the refiner, if there is one, after the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..anatomy.draft import HEALTHY, painted
from ..anatomy.draw import Field, drawn_shares
from ..anatomy.shares import LEADING, tissue_shares
from ..bundle.manifest import INT16_SCALE, BundleManifest, Grid, MaskFirst, NoiseSchedule
from ..mask_solver import noise_size, solve_mask
from ..processor import available_threads
from .batch import Batch
from .decoding import NOT_FINITE
from .grain import grain_wanted, with_grain_inside
from .plan import SamplingPlan, sampling_plan
from .samplers import Latent
from .slabs import SLABS_AT_ONCE, brain_of, decode_slabs, encode_slabs, masked_volume, refine_slices, unit_image
from .types import LATENTS_AT_ONCE, OnStep, RunComponent, SampleRequest, SamplingOptions, Told, Volume

MASK_DRAW = 2**31
"""Draw of the mask stage's initial noise; its step k adds that of MASK_DRAW + k."""

SURFACE_DRAW = MASK_DRAW + 32768
"""Draw of the noise that roughens the surface of a mask."""

ANATOMY_DRAW = SURFACE_DRAW + 1
"""Draw of the numbers that the brain around a mask follows from."""

GRAIN_DRAW = ANATOMY_DRAW + 1
"""Draw of the fine noise of a finished volume."""

_FLOAT = np.dtype(np.float32).itemsize

T = TypeVar("T")


class DecodedImage(NamedTuple):
    """What the networks made of a request."""

    request: SampleRequest
    planes: NDArray[np.float32]  # (z, modality, x, y) in about -1..1
    brain: NDArray[np.float32]  # (z, x, y) logits
    finite: bool  # whether mask and latent are


@dataclass(frozen=True)
class MaskFirstModel:
    """A `VolumeModel` that makes the mask first."""

    schedule: NoiseSchedule
    latent_shape: tuple[int, ...]  # (C, slab, h, w)
    grid: Grid
    modalities: tuple[str, ...]
    tissues: int
    condition_columns: int
    form: MaskFirst
    refined: bool  # whether a refiner follows the decoder

    @classmethod
    def of(cls, manifest: BundleManifest, form: MaskFirst) -> MaskFirstModel:
        """That of a bundle."""
        return cls(
            manifest.schedule,
            manifest.latent.shape,
            manifest.grid,
            manifest.modalities,
            len(manifest.labels) - 1,
            len(manifest.condition_columns),
            form,
            "refiner" in manifest.components,
        )

    @property
    def mask_plan(self) -> SamplingPlan:
        """The steps of the mask stage."""
        schedule = replace(self.schedule, fitted=self.form.fitted)
        return sampling_plan(schedule, SamplingOptions.default(self.form.mask_sampling))

    @property
    def draft_shape(self) -> tuple[int, int, int, int]:
        """Of a draft, and of an image as it is decoded: z, modality, x, y."""
        x, y, z = self.grid.shape
        return z, len(self.modalities), x, y

    @property
    def working_bytes(self) -> int:
        """See `VolumeModel`: states, tissues, draft and shares, the image decoded, refined, as numbers, its grain."""
        volumes = self.tissues + (4 + self.refined) * len(self.modalities) + len(HEALTHY) + 1
        states = LATENTS_AT_ONCE * max(prod(self.latent_shape), prod(self.form.mask_maps.shape))
        return _FLOAT * (states + volumes * prod(self.grid.shape))

    def rows(self, batch_size: int) -> Mapping[str, set[int]]:
        """See `VolumeModel`."""
        slabs = self.latent_shape[1]
        at_once = {min(slabs, SLABS_AT_ONCE), slabs % SLABS_AT_ONCE or SLABS_AT_ONCE}
        return {
            "mask_denoiser": {batch_size},
            "encoder": at_once,
            "aggregator_encode": {1},
            "denoiser": {batch_size},
            "aggregator": {batch_size},
            "decoder": at_once,
            **({"refiner": {1}} if self.refined else {}),
        }

    def tell(self, run: RunComponent, batch: Batch, on_step: OnStep | None) -> Told:
        """The tissues of masks that are drawn here or given, drafts of the brains around them, and of what source."""
        labels = np.zeros((batch.size, *self.grid.shape), np.uint8)
        drafts = np.zeros((batch.size, *self.draft_shape), np.float32)
        failed = np.zeros(batch.size, np.bool_)
        for request, label in zip(batch.requests, self.labels(run, batch, on_step), strict=True):
            slot = batch.slot(request)
            failed[slot] = label is None
            if label is not None:
                labels[slot] = label
        drawn = _each(lambda one: self.draft(batch, one, labels[batch.slot(one)]), batch.requests)
        for request, draft in zip(batch.requests, drawn, strict=True):
            drafts[batch.slot(request)] = draft
        return self.told(run, batch, labels, tissue_planes(labels, self.tissues), drafts, failed)

    def told(
        self,
        run: RunComponent,
        batch: Batch,
        labels: NDArray[np.uint8],
        tissues: NDArray[np.float32],
        drafts: NDArray[np.float32],
        failed: NDArray[np.bool_],
    ) -> Told:
        """What is told of masks (batch size, x, y, z), their `tissue_planes` and drafts (batch size, *draft_shape)."""
        encoded = batch.filled(self.latent_shape, lambda request: self.encode(run, drafts[batch.slot(request)]))
        source = np.full(batch.size, self.form.source, np.float32)
        return Told({"tissues": tissues, "draft": encoded, "source": source}, labels, failed, drafts)

    def told_of(self, batch: Batch, label: NDArray[np.uint8]) -> Told:
        """See `VolumeModel`: the mask of every slot."""
        return Told({}, np.repeat(label[None], batch.size, axis=0), np.zeros(batch.size, np.bool_))

    def decode(self, run: RunComponent, batch: Batch, told: Told, latents: Latent) -> list[Volume]:
        """See `VolumeModel`."""
        assert told.labels is not None
        labels = told.labels
        return [
            self.volume(batch, one, labels[batch.slot(one.request)]) for one in self.images(run, batch, told, latents)
        ]

    def images(self, run: RunComponent, batch: Batch, told: Told, latents: Latent) -> Iterator[DecodedImage]:
        """What the networks make of clean latents (batch size, ...), a request after the other."""
        assert told.failed is not None
        features = run("aggregator", {"latent": latents})["features"]
        for request in batch.requests:
            slot = batch.slot(request)
            finite = not told.failed[slot] and bool(np.isfinite(latents[slot]).all())
            planes, brain = decode_slabs(run, features[slot], len(self.modalities))
            if self.refined and told.drafts is not None:
                planes = refine_slices(run, planes, told.drafts[slot])
            yield DecodedImage(request, planes, brain, finite)

    def volume(self, batch: Batch, decoded: DecodedImage, label: NDArray[np.uint8]) -> Volume:
        """The volume of what was decoded around a mask (x, y, z): its brain found, its grain drawn."""
        request, planes, brain, finite = decoded
        inside = brain_of(brain.transpose(1, 2, 0) > 0, label)
        image = self._grained(batch, request, unit_image(planes), inside)
        return masked_volume(request, image, brain, label, None if finite else NOT_FINITE, inside)

    def encode(self, run: RunComponent, image: NDArray[np.float32], label: NDArray[np.uint8] | None = None) -> Latent:
        """See `VolumeModel`: the image alone; its mask is told apart."""
        features = encode_slabs(run, image, self.form.slab_slices)
        return run("aggregator_encode", {"features": features[None]})["latent"][0]

    def healthy(self, image: NDArray[np.int16], label: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `VolumeModel`."""
        leading = image[[self.modalities.index(name) for name in LEADING]].astype(np.float32) / np.float32(INT16_SCALE)
        return tissue_shares(leading, label, self.grid.spacing_mm)

    def maps(self, run: RunComponent, batch: Batch, on_step: OnStep | None) -> NDArray[np.float32]:
        """Distance maps (batch size, map, z, x, y) in mm, from which the masks are made."""
        maps = self.form.mask_maps
        told, plan = self.told_maps(batch), self.mask_plan
        clean = batch.sampled(run, "mask_denoiser", maps.shape, told, plan, on_step, base_draw=MASK_DRAW)
        mean, std = (np.array(values, np.float32)[:, None, None, None] for values in (maps.mean, maps.std))
        return clean * std + mean

    def told_maps(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """What the mask denoiser is told: the conditions."""
        return {"condition": batch.filled((self.condition_columns,), lambda request: request.condition)}

    def labels(self, run: RunComponent, batch: Batch, on_step: OnStep | None) -> Sequence[NDArray[np.uint8] | None]:
        """The mask of each request: given, or drawn and solved; None where its maps are not finite."""
        drawn = [request for request in batch.requests if request.label is None]
        if not drawn:
            return [request.label for request in batch.requests]
        maps = self.maps(run, Batch(drawn, batch.size, batch.seed), on_step)

        def label(request: SampleRequest) -> NDArray[np.uint8] | None:
            return self.mask(batch, request, maps[batch.slot(request)])

        return _each(label, batch.requests)

    def _grained(
        self, batch: Batch, request: SampleRequest, image: NDArray[np.float32], brain: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """An image with grain in the brain."""
        if not any(deviation for pair in self.form.grain for deviation in pair):
            return image
        normals = batch.normals_where(request, GRAIN_DRAW, grain_wanted(brain, len(image)))
        return with_grain_inside(image, self.form.grain, normals, brain)

    def draft(self, batch: Batch, request: SampleRequest, label: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The draft (z, modality, x, y) of a brain that is given, or drawn around the mask."""
        shares = request.shares
        if shares is None:
            field = Field(self.grid.shape, self.grid.spacing_mm)
            shares = drawn_shares(batch.normals(request, ANATOMY_DRAW, field.numbers), label, field)
        return painted(shares, label, self.form.draft_levels)

    def mask(self, batch: Batch, request: SampleRequest, maps: NDArray[np.float32]) -> NDArray[np.uint8] | None:
        """The mask (x, y, z) that is given, or solved from maps (map, z, x, y); None where they are not finite."""
        if request.label is not None:
            return request.label
        if not np.isfinite(maps).all():
            return None
        noise = batch.normals(request, SURFACE_DRAW, noise_size(self.grid.shape))
        return solve_mask(maps, request.wanted, self.grid.shape, self.grid.spacing_mm, noise).label


def _each(make: Callable[[SampleRequest], T], requests: Sequence[SampleRequest]) -> list[T]:
    """What is made of each request, on all processors; one by the calling thread, since what a thread that ends has
    freed goes to any other, and a process grows by what the next one takes anew.
    """
    if len(requests) == 1:
        return [make(request) for request in requests]
    with ThreadPoolExecutor(min(len(requests), available_threads()), "host") as pool:
        return list(pool.map(make, requests))


def tissue_planes(labels: NDArray[np.uint8], tissues: int) -> NDArray[np.float32]:
    """Labels (N, x, y, z) -> (N, tissue, z, x, y): 1 where the label is the tissue's."""
    planes = labels.transpose(0, 3, 1, 2)[:, None]
    return (planes == np.arange(1, tissues + 1, dtype=np.uint8)[None, :, None, None, None]).astype(np.float32)

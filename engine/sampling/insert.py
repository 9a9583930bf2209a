"""A lesion put into a scan, or taken out of it: a margin around it is made anew, the rest of the scan stays.

The scan's latent is known: at every step of the sampler its cells beyond the margin are replaced by the scan's own,
noised to that step (Lugmayr et al., "RePaint", CVPR 2022, equation 8), so what is made fits what is there. How that
becomes the scan's voxels: `blend.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..anatomy.draft import painted
from ..anatomy.heal import healed, symmetry
from ..anatomy.mass_effect import pushed_places, taken_from
from ..bundle.manifest import INT16_SCALE, Grid
from ..conditions.columns import ConditionColumn, normalise
from ..masks.growth import grown
from ..masks.place import nearest_place
from ..output.scan_files import Patch
from .batch import Batch
from .blend import Place, blended, core_of, distance_mm, fitted
from .decoding import NOT_FINITE
from .host import HostLoop
from .insert_case import InsertCase, Label, scan_label
from .mask_first import GRAIN_DRAW, MaskFirstModel
from .plan import SamplingPlan
from .scan_noise import NUMBERS
from .slabs import DARKEST, Decoded
from .types import LoopKind, OnStep, RunComponent, SampleRequest, SamplingOptions, Volume

KNOWN_DRAW = 2**30
"""Draw of the noise that known cells get before the first step; before step k it is KNOWN_DRAW + k."""

HELD = 0.98  # share of a drawn tumour that its place in the scan's brain holds, where there is one
LEAST_HELD = 0.8
NO_ROOM = "the scan's brain has no room for its tumour; ask for another place or a smaller one"

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class InsertedVolume(Volume):
    """A finished sample on the model's grid, and what becomes of the scan's own voxels."""

    patch: Patch


@dataclass(frozen=True)
class _Seen:
    """A scan as the model sees it."""

    unit: FloatArray  # (M, x, y, z) on the grid, 0..1
    clean: FloatArray  # (C, slab, h, w) its latent
    decoded: Decoded  # of that latent
    shares: FloatArray  # (3, x, y, z) of its healthy tissues, the removed lesion filled


@dataclass(frozen=True)
class _Sampled:
    """What the sampler made of one request."""

    request: SampleRequest
    new: Label  # on the grid
    scan: Label  # the same on the scan's voxels
    near: Mask  # (x, y, z) of the grid: the brain within the margin
    seen: _Seen
    batch: Batch
    latent: FloatArray  # (C, slab, h, w)
    draft: FloatArray | None  # (z, M, x, y) that it was made on, where it is refined


class InsertLoop:
    """Samples of one scan with other lesions; drives the networks as `HostLoop` does, a sample at a time.

    Args:
        loop: of a bundle of the form mask-first.
        case: the scan.
        columns: of conditions.
        at_once: whether two networks may run at once. Then what the model sees of the scan is worked out in another
            thread, beside the loading of networks and the mask stage.
    """

    in_flight = 1
    kind: LoopKind = "host"

    def __init__(
        self, loop: HostLoop, case: InsertCase, columns: Sequence[ConditionColumn], *, at_once: bool = False
    ) -> None:
        assert isinstance(loop.model, MaskFirstModel)
        self._loop, self._case, self._columns, self._model = loop, case, columns, loop.model
        self.reason = f"{loop.reason}, one sample at a time"
        self.options: SamplingOptions = loop.options
        self._own = case.own.grid.label()
        self._brain: Mask = np.asarray(case.image.any(axis=0))
        self._removed: Mask = (self._own > 0) & case.removes
        self._left = np.where(self._removed, np.uint8(0), self._own)
        self._at_once, self._ahead = at_once, ThreadPoolExecutor(1, "scan")
        self._tissues = self._ahead.submit(self._healthy)
        self._seen: _Seen | Future[_Seen] = self._ahead.submit(self._looked_at) if at_once else self._looked_at()
        self._series: tuple[int, int, list[Label]] | None = None  # number, attempt and masks of the last one

    @property
    def _grid(self) -> Grid:
        return self._model.grid

    def _looked_at(self) -> _Seen:
        unit = self._case.image.astype(np.float32) / np.float32(INT16_SCALE)
        clean = self._encoded(unit)
        own, shares, _ = self._tissues.result()
        return _Seen(unit, clean, self._decoded(clean, self._drafted(own)), shares)

    def _scan(self) -> _Seen:
        """What the model sees of the scan; worked out again where the other thread was ended over it."""
        if isinstance(self._seen, Future):
            ahead = self._seen
            self._seen = self._looked_at() if ahead.done() and ahead.exception() is not None else ahead.result()
        return self._seen

    def _decode_ahead(self, seen: Callable[[], _Seen]) -> None:
        """Have the other thread decode a scan, where all of it will be looked at."""
        if self._at_once and self._model.refined:
            self._ahead.submit(lambda: seen().decoded.over(()))

    def start(self, requests: Sequence[SampleRequest], on_step: OnStep | None = None) -> Callable[[], list[Volume]]:
        """As `HostLoop.start`."""
        made = [self._sampled(request, on_step) for request in requests]
        return lambda: [self._volume(one) if isinstance(one, _Sampled) else one for one in made]

    def _sampled(self, request: SampleRequest, on_step: OnStep | None) -> _Sampled | Volume:
        case, grid = self._case, self._grid
        number = request.number // max(len(case.volumes_ml), 1)  # samples of a series have one noise
        drawn = replace(request, number=number)
        if isinstance(self._seen, Future) and not case.has_mass_effect:
            self._decode_ahead(self._seen.result)
        lesion = self._lesion(request, drawn, on_step)
        if isinstance(lesion, str):
            return Volume(request.number, request.attempt, case.image, np.zeros_like(self._own), lesion)
        new, scan = lesion
        distance = distance_mm((new > 0) | self._removed, grid.spacing_mm)
        seen = self._pushed(new, distance) if case.has_mass_effect else self._scan()
        shown = np.where(new > 0, new, self._left)
        batch = Batch([replace(drawn, label=shown, shares=seen.shares)], 1, self.options.seed)
        told = self._model.tell(self._loop.run, batch, on_step)
        within = distance < case.margin_mm
        free = _cells(within, self._model.latent_shape)
        run = _keeping(self._loop.run, self._loop.plan, self._model, batch, seen.clean, free)
        start = batch.noise(self._model.latent_shape, 0)
        latent = batch.denoised(run, "denoiser", start, told.feeds, self._loop.plan, on_step)[0]
        draft = told.drafts[0] if told.drafts is not None and self._model.refined else None
        latent = np.where(free, latent, seen.clean)
        return _Sampled(request, new, scan, within & self._brain, seen, batch, latent, draft)

    def _lesion(
        self, request: SampleRequest, drawn: SampleRequest, on_step: OnStep | None
    ) -> tuple[Label, Label] | str:
        """The tumour of a sample on the grid and on the scan, or why there is none."""
        case, steps = self._case, max(len(self._case.volumes_ml), 1)
        if not case.inserts:
            empty = np.zeros_like(self._own)
            return empty, np.zeros(case.voxels.shape, np.uint8)
        if case.given and not case.volumes_ml:
            given = case.given[drawn.number % len(case.given)]
            return given.grid.label(), given.scan.label()
        if self._series is None or self._series[:2] != (drawn.number, drawn.attempt):
            made = self._drawn(drawn, on_step)
            if isinstance(made, str):
                return made
            self._series = drawn.number, drawn.attempt, made
        label = self._series[2][request.number % steps]
        return label, scan_label(label, self._grid, case.voxels)

    def _drawn(self, request: SampleRequest, on_step: OnStep | None) -> list[Label] | str:
        """The masks of a series, or the one mask of a sample."""
        case, grid = self._case, self._grid
        room = self._brain & (self._left == 0)
        if case.given:
            label = case.given[request.number % len(case.given)].grid.label()
        else:
            if case.series:
                wanted = np.array(case.series[request.number % len(case.series)])
                request = replace(request, wanted=wanted, condition=normalise(wanted[None], self._columns)[0])
            made = self._model.labels(self._loop.run, Batch([request], 1, self.options.seed), on_step)[0]
            if made is None:
                return NOT_FINITE
            label = nearest_place(made, room, grid.spacing_mm, HELD)
            if np.count_nonzero(label) < LEAST_HELD * np.count_nonzero(made):
                return NO_ROOM
        return grown(label, room, grid.spacing_mm, case.volumes_ml) if case.volumes_ml else [label]

    def _healthy(self) -> tuple[FloatArray, FloatArray, int]:
        """Shares of the healthy tissues, the same with the removed lesion filled, and the brain's `symmetry`."""
        shares, spacing = self._model.healthy(self._case.image, self._own), self._grid.spacing_mm
        flip = symmetry(shares, self._removed, spacing) if self._case.removes else 0
        return shares, healed(shares, self._removed, spacing, flip), flip

    def _drafted(self, shares: FloatArray) -> FloatArray | None:
        """The draft (z, M, x, y) of the scan with its own lesion, which a refiner is told."""
        return painted(shares, self._own, self._model.form.draft_levels) if self._model.refined else None

    def _encoded(self, unit: FloatArray) -> FloatArray:
        """The latent of an image (M, x, y, z), 0..1."""
        image = np.ascontiguousarray(np.moveaxis(unit, -1, 0)) * np.float32(2) - np.float32(1)
        return self._model.encode(self._loop.run, image)

    def _decoded(self, latent: FloatArray, draft: FloatArray | None) -> Decoded:
        return Decoded(self._loop.run, latent, (len(self._model.modalities), *self._grid.shape), draft)

    def _pushed(self, new: Label, distance: FloatArray) -> _Seen:
        places = pushed_places(core_of(new), distance, self._grid.spacing_mm, self._case.margin_mm)
        brain = self._brain[None]
        unit, shares = (taken_from(one, places) * brain for one in (self._scan().unit, self._scan().shares))
        clean = self._encoded(unit)
        pushed = _Seen(unit, clean, self._decoded(clean, self._drafted(shares)), shares)
        self._decode_ahead(lambda: pushed)
        return pushed

    def _volume(self, made: _Sampled) -> Volume:
        request, case, grid = made.request, self._case, self._grid
        region, near = (made.new > 0) | self._removed, made.near
        place = Place.of(case, made.scan)
        planes = [*place.planes(case, grid), *np.flatnonzero(near.any(axis=(0, 1)))]
        before, decoded = (one.over(planes) for one in (made.seen.decoded, self._decoded(made.latent, made.draft)))
        finite = bool(np.isfinite(made.latent).all() and np.isfinite(decoded).all())
        decoded = fitted(np.nan_to_num(decoded), before, near & ~region, region, grid.spacing_mm)
        levels = np.clip(np.rint(decoded * INT16_SCALE), DARKEST, INT16_SCALE).astype(np.int16)
        image = np.where(near, levels, case.image)
        normals = made.batch.noise((len(case.files), NUMBERS), GRAIN_DRAW)[0]
        patch = blended(case, grid, place, made.scan, decoded, before, self._tissues.result()[2], normals)
        fault = None if finite else NOT_FINITE
        return InsertedVolume(request.number, request.attempt, image, made.new, fault, patch)


def _keeping(
    run: RunComponent, plan: SamplingPlan, model: MaskFirstModel, batch: Batch, clean: FloatArray, free: Mask
) -> RunComponent:
    """`run` whose denoiser sees the known latent, noised to its step, wherever cells are not `free`."""
    steps = {timestep: step for step, timestep in enumerate(plan.timesteps)}

    def kept(component: str, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, FloatArray]:
        if component == "denoiser":
            timestep = float(inputs["timestep"][0])
            signal = model.schedule.alphas_cumprod[int(timestep)]
            noise = batch.noise(clean.shape, KNOWN_DRAW + steps[timestep])
            known = np.float32(np.sqrt(signal)) * clean + np.float32(np.sqrt(1 - signal)) * noise
            inputs = {**inputs, "sample": np.where(free, inputs["sample"], known).astype(np.float32)}
        return run(component, inputs)

    return kept


def _cells(near: Mask, latent_shape: tuple[int, ...]) -> Mask:
    """(slab, h, w) of the latent's cells that hold a voxel (x, y, z) which may change."""
    slabs, h, w = latent_shape[1:]
    x, y, z = near.shape
    blocks = near.reshape(h, x // h, w, y // w, slabs, z // slabs)
    return np.asarray(np.any(blocks, axis=(1, 3, 5))).transpose(2, 0, 1)

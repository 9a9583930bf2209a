"""Images around masks that are given, not drawn."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..conditions.columns import Conditions
from ..errors import UsageError
from .host import HostLoop
from .types import LoopKind, OnStep, SampleRequest, SamplingOptions, Volume


@dataclass(frozen=True)
class GivenMasks:
    """Masks on a model's grid, kept compressed; sample k has mask k modulo their number."""

    shape: tuple[int, int, int]  # x, y, z
    packed: tuple[bytes, ...]
    conditions: Conditions  # what each measures, complete
    edits: str = ""  # sha256 of the rows that they were moved and scaled by; empty where they are as given

    @staticmethod
    def of(labels: Iterable[NDArray[np.uint8]], shape: tuple[int, int, int], conditions: Conditions) -> GivenMasks:
        """Of labels (x, y, z) and their measured rows, in one order."""
        return GivenMasks(shape, tuple(zlib.compress(label.tobytes()) for label in labels), conditions)

    def label(self, sample: int) -> NDArray[np.uint8]:
        """The mask (x, y, z) of a sample."""
        voxels = zlib.decompress(self.packed[sample % len(self.packed)])
        return np.frombuffer(voxels, np.uint8).reshape(self.shape)

    def given(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """The requests with their masks."""
        return [replace(request, label=self.label(request.number)) for request in requests]

    def sha256(self) -> str:
        """Digest of names and voxels."""
        digest = hashlib.sha256(repr(self.conditions.ids).encode())
        for number in range(len(self.packed)):
            digest.update(self.label(number).tobytes())
        return digest.hexdigest()


def require_mask_first(bundle: Bundle) -> None:
    """UsageError where the bundle takes no masks."""
    manifest = bundle.manifest
    if manifest.mask_first is None:
        raise UsageError(
            f"--masks: bundle {manifest.id} makes mask and image together; a bundle of the form mask-first takes masks"
        )


def check_masks(masks: GivenMasks, bundle: Bundle) -> None:
    """UsageError where the bundle takes no masks, or masks on another grid."""
    require_mask_first(bundle)
    manifest = bundle.manifest
    if masks.shape != manifest.grid.shape:
        raise UsageError(f"--masks: have {masks.shape} voxels, bundle {manifest.id} needs {manifest.grid.shape}")


class MaskedLoop:
    """Samples around given masks; drives the networks as `HostLoop` does, on any backend."""

    in_flight = 1

    def __init__(self, loop: HostLoop, masks: GivenMasks) -> None:
        self.loop, self.masks = loop, masks
        self.kind: LoopKind = loop.kind
        self.reason = loop.reason
        self.options: SamplingOptions = loop.options

    def start(self, requests: Sequence[SampleRequest], on_step: OnStep | None = None) -> Callable[[], list[Volume]]:
        """As `HostLoop.start`."""
        return self.loop.start(self.masks.given(requests), on_step)

"""Whether what the decoder makes of the training cases' latents is the training cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.sampling.decoding import decode_slices
from ..engine.sampling.slabs import decode_slabs
from ..engine.sampling.types import RunComponent
from ..train.config import AnySystem, MaskFirstConfig
from .plausibility import decodable_latents

CASES = 2
LEAST_CORRELATION = 0.5  # of a modality within the brain, over a case
CACHE = "cache"  # where `train` keeps the prepared cases unless told otherwise


def reconstruction_faults(checkpoint: Path, config: AnySystem, run: RunComponent) -> list[str]:
    """Training cases whose decoded latents are unlike them, a line each.

    Empty where they are like them, and where the directory has no latents or no prepared cases any more.
    """
    latents = decodable_latents(checkpoint, config, CASES)
    if latents is None:
        return []
    faults = []
    for case, (name, stored) in cached_cases(checkpoint, CASES).items():
        images = stored[:, : len(config.modalities)]
        made = decoded(latents[case], config, run)
        for number, modality in enumerate(config.modalities):
            found = correlation(made[:, number], images[:, number])
            if found < LEAST_CORRELATION:
                faults.append(
                    f"training case {name}: its {modality} and what the decoder makes of it correlate by "
                    f"{found:.2f}, must by {LEAST_CORRELATION:g} at least: the autoencoder is not trained enough"
                )
    return faults


def cached_cases(checkpoint: Path, count: int) -> dict[int, tuple[str, NDArray[np.uint8]]]:
    """Those of the first `count` encoded cases whose prepared files are there: number -> name, (z, modality + 1, x, y).

    Empty where the directory has no latents any more.
    """
    key = checkpoint / "latents" / "key.json"
    if not key.is_file():
        return {}
    files = [checkpoint / CACHE / name for name in json.loads(key.read_text("utf-8"))["cases"][:count]]
    return {
        case: (file.name.split(".")[0], np.load(file, mmap_mode="r"))
        for case, file in enumerate(files)
        if file.is_file()
    }


def decoded(latent: NDArray[np.float32], config: AnySystem, run: RunComponent) -> NDArray[np.float32]:
    """The image (D, M, X, Y) of one case's latent from `decodable_latents`."""
    if isinstance(config, MaskFirstConfig):
        features = run("aggregator", {"latent": latent[None]})["features"][0]
        return decode_slabs(run, features, len(config.modalities))[0]
    return decode_slices(run, latent, refined=False).coarse


def correlation(made: NDArray[np.floating], stored: NDArray[np.uint8]) -> float:
    """Of two images over the brain, which is what is stored above 0; 0 where either is constant."""
    brain = stored > 0
    a, b = made[brain].astype(np.float64), stored[brain].astype(np.float64)
    return 0.0 if len(a) < 2 or a.std() == 0 or b.std() == 0 else float(np.corrcoef(a, b)[0, 1])

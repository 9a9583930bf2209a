"""Whether a run gave the tumours it was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def adherence(values: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Pearson's r, median absolute and median relative error, and the samples that count, a condition column.

    `values`: column -> (samples, 2) of requested and measured; pairs that are not finite do not count.
    """
    figures: dict[str, Any] = {}
    for name, pairs in values.items():
        requested, measured = pairs[np.isfinite(pairs).all(axis=1)].T
        varied = requested.size > 1 and requested.std() > 0 and measured.std() > 0
        wanted = requested != 0
        error = np.abs(measured - requested)
        figures[name] = {
            "r": float(np.corrcoef(requested, measured)[0, 1]) if varied else None,
            "median_error": float(np.median(error)) if error.size else None,
            "median_relative_error": float(np.median(error[wanted] / np.abs(requested[wanted])))
            if wanted.any()
            else None,
            "samples": int(requested.size),
        }
    return figures

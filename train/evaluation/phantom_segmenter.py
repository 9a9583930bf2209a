"""The segmenter that ships: it knows phantoms, and judges samples where no real cases are given.

`export/phantom_segmenter.py` makes its file, which also tells how well it finds tumours of phantoms on anatomies that
it was not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from ...engine.errors import InvalidInputError
from ...engine.onnx_sessions import import_onnxruntime, load_errors, session_options
from ...engine.processor import available_threads
from .segmenter import segmented

FILE = Path(str(files(__package__ or "").joinpath("phantom_segmenter.onnx")))
INPUT, OUTPUT = "slabs", "logits"
DESCRIPTION = "description"  # JSON among the graph's metadata
NAME = "segmenter for phantoms that ships with this program"


class PhantomSegmenter:
    """A small 2.5D U-Net as ONNX on the CPU."""

    def __init__(self, graph: bytes | None = None) -> None:
        """`graph` is the one that ships by default.

        Raises:
            InvalidInputError: the file is missing or damaged.
            BackendUnavailableError: ONNX Runtime is not there.
        """
        runtime = import_onnxruntime()
        try:
            content = FILE.read_bytes() if graph is None else graph
        except OSError as error:
            raise InvalidInputError(f"{FILE}: cannot be read ({error.strerror}); install the package again") from error
        with load_errors(FILE):
            self._session = runtime.InferenceSession(
                content, session_options(available_threads()), providers=["CPUExecutionProvider"]
            )
        self.told: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map[DESCRIPTION])
        """What it was made of and tested on."""

    @property
    def dice(self) -> NDArray[np.float64]:
        """(cases, region) of phantoms on held-out anatomies."""
        return np.array(self.told["dice"], np.float64)

    @property
    def trained_on(self) -> int:
        """Phantoms."""
        return self.told["trained_on"]["count"]

    def segment(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels (x, y, z) of one image (modality, x, y, z), 0 background, 1..255; 0 outside the brain."""
        return segmented(self._find, image)

    def _find(self, slabs: NDArray[np.float32]) -> NDArray[np.uint8]:
        (logits,) = self._session.run([OUTPUT], {INPUT: slabs})
        return np.asarray(logits).argmax(axis=1).astype(np.uint8)


def misfit(grid: Grid, modalities: Sequence[str]) -> str | None:
    """Why volumes like these cannot be shown to the segmenter that ships; None where they can."""
    if tuple(modalities) != MODALITIES:
        return f"the {NAME} takes {', '.join(MODALITIES)}"
    if grid != DEFAULT_GRID:
        size, spacing = (" x ".join(f"{n:g}" for n in three) for three in (DEFAULT_GRID.shape, DEFAULT_GRID.spacing_mm))
        return f"the {NAME} takes {size} voxels of {spacing} mm"
    return None if FILE.is_file() else f"the {NAME} is not there ({FILE.name})"

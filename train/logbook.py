"""What a stage writes down while it trains: metrics.jsonl, TensorBoard, preview pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..engine.errors import UsageError

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"
PREVIEWS_NAME = "previews"

Picture = NDArray[np.uint8]  # (height, width, 3)


class Logbook:
    """One stage's records below a training directory; TensorBoard has a run a stage."""

    def __init__(self, directory: Path, stage: str, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(f'train needs {error.name}: pip install "sbldm-engine[train]"') from error
        self.directory, self.stage = directory, stage
        # what an interrupted run logged beyond its last checkpoint is made again, so TensorBoard is told to drop it
        self._board = SummaryWriter(str(directory / TENSORBOARD_NAME / stage), purge_step=first_step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record the metrics of one step (counted from 0)."""
        with (self.directory / METRICS_NAME).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def preview(self, steps: int, picture: Picture) -> None:
        """Record what the stage gives after so many steps, as previews/STAGE-STEPS.png and in TensorBoard."""
        folder = self.directory / PREVIEWS_NAME
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{self.stage}-{steps:06d}.png")
        self._board.add_image("preview", picture, steps - 1, dataformats="HWC")

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        self._board.close()


@contextmanager
def open_logbook(directory: Path, stage: str, first_step: int, writes: bool) -> Iterator[Logbook | None]:
    """The logbook of a stage that goes on at `first_step`; None for a process that does not write.

    Raises:
        UsageError: tensorboard is not installed.
    """
    book = Logbook(directory, stage, first_step) if writes else None
    try:
        yield book
    finally:
        if book is not None:
            book.close()


def read_metrics(directory: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Stage -> step -> metrics of a training directory; of a step that was made twice the later one counts.

    Raises:
        OSError: there is no metrics.jsonl.
        ValueError: a line is not what a stage writes.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in (directory / METRICS_NAME).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        found.setdefault(entry.pop("stage"), {})[entry.pop("step")] = entry
    return found

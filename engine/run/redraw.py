"""Which draw of a sample is kept, and when it is drawn again: the one policy of `--reject`, `--exclude-copies` and
`--attempts`."""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, TypeVar

from .options import RunOptions
from .requests import SampleTask

Draw = TypeVar("Draw")


class Redraws(Generic[Draw]):
    """Judges the draws of a run's samples; different samples may be judged in different threads.

    A draw within the tolerance is kept. Another one is drawn again while there are attempts left; then the draw of
    the smallest miss is kept, the earlier of equals. A faulty draw is kept only where all are, and then the last.
    """

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._best: dict[int, tuple[Draw, float]] = {}  # draw and miss of samples that are drawn again, by number

    def judge(self, task: SampleTask, draw: Draw, miss: float | None, *, is_copy: bool = False) -> Draw | SampleTask:
        """The draw to keep, or the task to make next; `miss` is that of `writer.miss`, None for a faulty draw.

        A fault that `is_copy` is drawn again whatever the tolerance.
        """
        best = self._best.pop(task.sample, None)
        if miss is not None and (best is None or miss < best[1]):
            best = (draw, miss)
        accepted = self._options.reject is None and not is_copy if miss is None else self._options.accepts(miss)
        if not accepted and task.attempt < self._options.attempts:
            if best is not None:
                self._best[task.sample] = best
            return replace(task, attempt=task.attempt + 1)
        return draw if best is None else best[0]

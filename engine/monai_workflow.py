"""What `configs/inference.json` of a MONAI bundle calls (`export --monai-bundle`): a run in a directory, by the engine.

MONAI reads the configuration and calls `DirectoryRun.run`; the networks run where they run for `generate`.
"""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any, Literal, Unpack

from .bundle.load import load_bundle
from .errors import IncompleteRunError
from .output.case_files import GridName
from .output.case_tags import NameBy
from .output.layouts import LayoutName, Names
from .run.arguments import DatasetArguments, python_call
from .run.job import Summary, execute, prepare
from .run.request import GenerateRequest
from .telemetry import Telemetry


class RunArguments(DatasetArguments, total=False):
    """Options of `sbldm-engine generate` that a configuration may set; null leaves an option to its default."""

    batch_size: int | Literal["auto"] | None
    workers: int
    layout: LayoutName
    names: Names
    name_by: NameBy
    grid: GridName
    samples: str | None
    resume: bool
    strict: bool


class DirectoryRun:
    """A run as `sbldm-engine generate` makes it: the same files, byte for byte.

    Args:
        bundle: name or path of the engine's bundle, of a MONAI bundle its folder `models`.
        out: directory of the run.
        count: number of samples; default one a row of `conditions`, without these one.
        conditions: path of a CSV, or None to draw everything.
        options: `RunArguments`; None leaves an option to its default.
    """

    @python_call(RunArguments)
    def __init__(
        self,
        bundle: str | os.PathLike[str],
        out: str | os.PathLike[str],
        count: int | None = None,
        conditions: str | os.PathLike[str] | None = None,
        **options: Unpack[RunArguments],
    ) -> None:
        self.bundle, self.out = bundle, Path(out)
        self._asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        self._asked["conditions"] = None if conditions is None else Path(conditions)
        self._asked["count"] = 1 if count is None and conditions is None else count

    def run(self) -> Summary:
        """Make the samples, or what is missing of them with `resume`.

        Raises:
            UsageError, InvalidInputError: an option, the directory, the conditions or the bundle; nothing is written.
            BackendUnavailableError: it cannot run here.
            IncompleteRunError: samples failed, or the run was interrupted; `resume` goes on.
        """
        request = GenerateRequest(bundle=load_bundle(self.bundle), out=self.out, **self._asked)
        job = prepare(request)
        for warning in job.warnings:
            warnings.warn(warning, RuntimeWarning, stacklevel=2)
        summary = execute(job, Telemetry(), threading.Event())
        if summary.failed or summary.interrupted:
            ended = "was interrupted" if summary.interrupted else f"{summary.failed} samples failed, see its ledger"
            raise IncompleteRunError(f"{self.out}: {ended}; go on with resume")
        return summary

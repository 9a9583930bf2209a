"""What trainers of every form share: a directory, its lineage, and stages that go on from their last checkpoint."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..engine.conditions.columns import fit_columns
from ..engine.conditions.distribution import fit
from .checkpoint import STAGES, save_system, weights_path
from .condition_file import save_conditions
from .config import AnySystem
from .data.cohort import Cohort
from .diffusion import make_schedule
from .guards import refuse_another_cohort, refuse_other_networks, require_same_inputs, require_same_settings
from .latents import condition_names
from .lineage import STATE_NAME, Origin, origin_of, outdated_upstream, read_record
from .stage import Finish, HeldOut, Preview, StageRun, StepLoss, train_stage
from .warm_start import begin_with

OWN_START = frozenset({"distill"})  # the student begins as this directory's own teacher

log = logging.getLogger(__name__)


class Trainer(ABC):
    """Trains the stages of one system into one directory, each from the last checkpoint on."""

    def __init__(
        self,
        config: AnySystem,
        cohort: Cohort,
        run: StageRun,
        *,
        keep_stale: bool = False,
        start_from: Path | None = None,
    ) -> None:
        """`start_from` is a training directory whose weights the stages begin with that have no state yet."""
        self.system, self.cohort, self.run, self.keep_stale = config, cohort, run, keep_stale
        self.start_from = start_from
        self.directory = run.directory
        self.schedule = make_schedule(config.schedule)

    @abstractmethod
    def stages(self) -> Mapping[str, Callable[[], None]]:
        """What trains each stage."""

    def inputs(self, stage: str) -> Mapping[str, str | None]:
        """What a stage reads beside the cohort: option -> sha256, None where it is not given."""
        return {}

    def start(self) -> None:
        """Write what the directory belongs to and what the cohort's conditions are.

        Raises:
            InvalidInputError: stages of the directory were trained on another cohort, or belong to other networks.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        refuse_another_cohort(self.directory, self.run.cohort)
        refuse_other_networks(self.directory, self.system)
        if self.run.fabric.is_global_zero:
            self._describe()
        self.run.fabric.barrier()

    def _describe(self) -> None:
        save_system(self.directory, self.system)
        names = condition_names(self.system)
        rows = self.cohort.originals.conditions[:, : len(names)]
        save_conditions(self.directory, fit_columns(rows, names), fit(rows, names, self.system.grid.fov_mm))

    def restart(self, stage: str) -> None:
        """Forget what a stage has learnt, so that `train` makes it again."""
        folder = self.directory / stage
        if self.run.fabric.is_global_zero:
            for name in (STATE_NAME, weights_path(self.directory, stage).name):
                (folder / name).unlink(missing_ok=True)
            for state in folder.glob("state-*.safetensors"):
                state.unlink()
        self.run.fabric.barrier()

    def train(self, stage: str) -> None:
        """Run one stage to its end; what it needs of earlier stages is loaded from the directory.

        A stage that is finished and current is left as it is. One whose earlier stages have changed since is made
        again, unless `keep_stale` is set; that is said either way.

        Raises:
            InvalidInputError: an earlier stage is missing, unfinished or outdated, settings of the finished stage were
                changed, or it was begun with other files.
        """
        origin = self._origin(stage)
        record = read_record(self.directory, stage)
        if record is not None and (outdated := outdated_upstream(self.directory, record)):
            if self.keep_stale:
                log.warning("stage %s: %s; kept, as --keep-stale asks", stage, outdated[0])
            else:
                log.warning("stage %s: %s; it is made again", stage, outdated[0])
                self.restart(stage)
                record = None
        if record is not None:
            require_same_inputs(self.directory, stage, record, origin)
        if record is not None and record.finished and record.has_ended(self.system.stages[stage].steps):
            require_same_settings(self.directory, stage, record, origin, self.run.seed)
            return
        torch.manual_seed(self.run.seed + STAGES.index(stage))
        self.stages()[stage]()

    def _run(
        self,
        stage: str,
        module: nn.Module,
        objective: StepLoss,
        preview: Preview | None = None,
        *,
        held_out: HeldOut | None = None,
        finish: Finish | None = None,
    ) -> None:
        origin, settings = self._origin(stage), self.system.stages[stage]
        if self.start_from is not None and stage not in OWN_START and read_record(self.directory, stage) is None:
            origin = replace(origin, start=begin_with(module, self.start_from, stage))
            log.info("stage %s: begins %s", stage, "anew" if origin.start is None else f"as in {self.start_from}")
        train_stage(
            self.run, stage, module, objective, settings, preview, held_out=held_out, origin=origin, finish=finish
        )

    def _origin(self, stage: str) -> Origin:
        return origin_of(self.directory, self.system, stage, self.inputs(stage))

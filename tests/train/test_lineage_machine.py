"""Whatever is done to a training directory, what may be exported is one system.

A state machine trains whole systems or single stages, is killed at any step or write, makes stages longer or shorter,
changes settings and files and makes stages again. Whenever the export would accept the directory, an oracle of its own
looks: hashes of the files, and, where no stage was changed on its way, a training from nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sbldm.engine.errors import InvalidInputError
from sbldm.export.bundle import held_together, training_summary
from sbldm.train.checkpoint import load_system
from sbldm.train.config import SystemConfig, slice_form
from sbldm.train.trained import load_networks

from tests.support.killed_training import Moments, final_weights, sha256, train
from tests.support.scans import affine, arrays, save
from tests.support.tiny_cohort import SMALL_SHAPE, SMALL_SPACING, short_config, write_preset, write_small_cohort

STAGES = ("autoencoder", "aggregator", "denoiser", "distill")
MADE_FROM = {"autoencoder": (), "aggregator": STAGES[:1], "denoiser": STAGES[:2], "distill": STAGES[:3]}
SETTINGS: dict[str, Callable[[SystemConfig, float], SystemConfig]] = {
    "dropout": lambda config, value: dataclasses.replace(config, condition_dropout=0.1 + value),
    **{
        stage: lambda config, value, stage=stage: with_stage(config, stage, learning_rate=1e-3 * (1 + value))
        for stage in STAGES
    },
}
MOST_STEPS = 5
SELDOM = st.sampled_from((False, False, False, True))
KILL = st.none() | st.integers(0, 60)  # moment
SHAPES: dict[str, set[str]] = {"dropout": {"denoiser", "distill"}, **{stage: {stage} for stage in STAGES}}


def with_stage(config: SystemConfig, stage: str, **changes: Any) -> SystemConfig:
    return dataclasses.replace(
        config, stages={**config.stages, stage: dataclasses.replace(config.stages[stage], **changes)}
    )


def machine_config() -> SystemConfig:
    config = dataclasses.replace(short_config(steps=2), refiner=None)
    stages = {name: stage for name, stage in config.stages.items() if name != "refiner"}
    return with_stage(dataclasses.replace(config, stages=stages), "aggregator", steps=1)


class TrainingMachine(RuleBasedStateMachine):
    from_nothing: ClassVar[dict[str, dict[str, str]]] = {}  # what was asked -> hashes of a training from nothing
    accepted: ClassVar[int] = 0
    begun: ClassVar[Path | None] = None  # a cohort and a whole training of it, to begin with a copy of

    @initialize(trained=st.sampled_from((True, True, False)))
    def begin(self, trained: bool) -> None:
        """A cohort, and two times of three a whole training of it."""
        self.folder = Path(tempfile.mkdtemp())
        self.config, self.changed = machine_config(), ""
        self.asked: dict[str, set[str]] = {stage: set() for stage in STAGES}  # what each stage was trained for
        kept = TrainingMachine.begun
        if kept is None:
            write_small_cohort(self.folder / "data", 2)
            assert self.run(self.folder / "out") == 0
            kept = TrainingMachine.begun = Path(tempfile.mkdtemp()) / "begun"
            shutil.copytree(self.folder, kept)
        shutil.copytree(kept, self.folder, dirs_exist_ok=True)
        if trained:
            self.asked = {stage: {self.shape_of(stage)} for stage in STAGES}
        else:
            shutil.rmtree(self.folder / "out")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def shape_of(self, stage: str) -> str:
        """What a stage of now would be, without what it is made from."""
        config = self.config.stages[stage]
        dropout = self.config.condition_dropout if stage in SHAPES["dropout"] else None
        return repr((config, dropout, self.changed))

    def run(self, out: Path, *more: str, kill_at: int | None = None) -> int | None:
        preset = write_preset(self.config, self.folder / "preset.yaml")
        return train(Moments(kill_at), self.folder / "data", out, preset, *more)

    @rule(stage=st.sampled_from(("all", *STAGES)), kill_at=KILL, stale=SELDOM)
    def train_stages(self, stage: str, kill_at: int | None, stale: bool) -> None:
        before = {name: self.state(name) for name in STAGES}
        more = ["--keep-stale"] if stale else []
        code = self.run(self.folder / "out", "--stage", stage, *more, kill_at=kill_at)
        for name in STAGES:
            if self.state(name) != before[name]:
                self.asked[name].add(self.shape_of(name))
        assert code in (0, 3, None)
        if code == 0 and stage == "all" and not stale:
            assert self.accepts(), "a whole training that ended well can be exported"

    @rule(stage=st.sampled_from(STAGES), kill_at=KILL, stale=SELDOM)
    def extend(self, stage: str, kill_at: int | None, stale: bool) -> None:
        """A stage is to have one step more, or one again at most; then everything is trained."""
        steps = self.config.stages[stage].steps + 1
        self.config = with_stage(self.config, stage, steps=1 if stage == "aggregator" or steps > MOST_STEPS else steps)
        self.train_stages(stage, kill_at, stale)
        self.train_stages("all", None, stale)

    @rule(name=st.sampled_from(sorted(SETTINGS)), stage=st.sampled_from(("all", *STAGES)), kept=SELDOM)
    def change_setting(self, name: str, stage: str, kept: bool) -> None:
        """A setting is changed, and for a while or for good."""
        before = self.config
        self.config = SETTINGS[name](self.config, 0.25)
        self.train_stages(stage, None, False)
        if not kept:
            self.config = before

    @rule(part=st.sampled_from(("t1", "seg")), stage=st.sampled_from(("all", *STAGES)), kept=SELDOM)
    def change_file(self, part: str, stage: str, kept: bool) -> None:
        """A scan or a mask of the first case gets other content, for a while or until the next change."""
        self.write_first_case("" if self.changed else part)
        self.train_stages(stage, None, False)
        if not kept:
            self.write_first_case("")

    def write_first_case(self, changed: str) -> None:
        case = arrays(SMALL_SHAPE, SMALL_SPACING)
        if changed:
            odd = np.indices(SMALL_SHAPE)[0] % 2
            case[changed] = np.where(odd, case[changed], case[changed] // 2).astype(case[changed].dtype)
        for name in ("t1", "seg"):
            save(self.folder / "data" / "S0" / f"S0_{name}.nii.gz", case[name], affine(SMALL_SPACING, SMALL_SHAPE))
        self.changed = changed

    @rule(stage=st.sampled_from(STAGES), kill_at=KILL)
    def restart(self, stage: str, kill_at: int | None) -> None:
        code = self.run(self.folder / "out", "--stage", stage, "--restart-stage", stage, kill_at=kill_at)
        if code == 0 or self.state(stage) is None:
            self.asked[stage] = set() if self.state(stage) is None else {self.shape_of(stage)}
        else:
            self.asked[stage].add(self.shape_of(stage))

    @invariant()
    def exported(self) -> None:
        """What the export would take belongs together, whenever it is asked."""
        if hasattr(self, "folder") and self.accepts():
            TrainingMachine.accepted += 1
            self.look()

    def state(self, stage: str) -> str | None:
        path = self.folder / "out" / stage / "state.json"
        return path.read_text() if path.is_file() else None

    def accepts(self) -> bool:
        """Whether `export` would take the directory; the first thing that it does."""
        out = self.folder / "out"
        try:
            config = slice_form(load_system(out), str(out))
            held_together(out, config, load_networks(out, config), force=False)
        except InvalidInputError:
            return False
        return True

    def look(self) -> None:
        """The oracle: what is there belongs together, says so, and is what a training from nothing makes."""
        out = self.folder / "out"
        found = {stage: sha256(out / stage / "weights.safetensors") for stage in STAGES}
        records = {stage: json.loads(self.state(stage) or "") for stage in STAGES}
        said = training_summary(out, slice_form(load_system(out), ""))
        latents = json.loads((out / "latents" / "key.json").read_text())
        assert latents["encoder"] == found["autoencoder"]
        assert len({record["cohort"] for record in records.values()}) == 1
        for stage, record in records.items():
            assert record["weights"] == found[stage]
            assert record["upstream"] == {name: found[name] for name in MADE_FROM[stage]}
            assert f"{stage} {record['step']} steps (weights {found[stage][:12]}" in said
        if all(self.asked[stage] == {self.shape_of(stage)} for stage in STAGES) and self.same_as_now(records):
            key = "|".join(self.shape_of(stage) for stage in STAGES)
            if key not in self.from_nothing:
                fresh = self.folder / "fresh"
                assert self.run(fresh) == 0
                self.from_nothing[key] = final_weights(fresh)
                shutil.rmtree(fresh)
            assert self.from_nothing[key] == found

    def same_as_now(self, records: dict[str, Any]) -> bool:
        return all(records[stage]["step"] == self.config.stages[stage].steps for stage in STAGES)


def look_at(examples: int, steps: int) -> None:
    TrainingMachine.from_nothing.clear()
    TrainingMachine.accepted, TrainingMachine.begun = 0, None
    run_state_machine_as_test(
        TrainingMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            phases=[Phase.generate, Phase.shrink],
        ),
    )  # fmt: skip
    assert TrainingMachine.accepted
    assert TrainingMachine.from_nothing
    assert TrainingMachine.begun is not None
    shutil.rmtree(TrainingMachine.begun.parent)


def test_no_history_leads_to_stages_that_do_not_belong_together() -> None:
    look_at(examples=8, steps=8)


@pytest.mark.skipif("SBLDM_LONG" not in os.environ, reason="takes many minutes; SBLDM_LONG=1 runs it")
def test_no_long_history_does_either() -> None:
    look_at(examples=60, steps=30)

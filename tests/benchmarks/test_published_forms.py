"""The comparison of the published forms with ours: its presets, budgets, commands and table."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from sbldm.benchmarks import published_forms
from sbldm.benchmarks.published_forms import Bench, Samples, System, budget, main, reduced, table
from sbldm.cli.main import app
from sbldm.engine.bundle.manifest import DEFAULT_GRID
from sbldm.engine.errors import InvalidInputError
from sbldm.train.config import AnySystem, config_to_json, load_preset, parse_config
from sbldm.train.system import planned_stages

SYSTEMS = published_forms.SYSTEMS.split(",")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_reduced_preset_is_one_that_train_takes(name: str) -> None:
    made, whole = reduced(name), load_preset(name)
    assert parse_config(json.dumps(config_to_json(made)), name) == made
    assert made.grid == DEFAULT_GRID
    assert (made.modalities, made.tissues, made.schedule) == (whole.modalities, whole.tissues, whole.schedule)
    assert {stage.learning_rate for stage in made.stages.values()} == {1e-3}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_gets_the_same_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(config: AnySystem, *_: object, **__: object) -> dict[str, float]:
        return {stage: 0.5 + number for number, stage in enumerate(planned_stages(config, "all"))}

    monkeypatch.setattr(published_forms, "step_seconds", seconds)
    planned = budget(reduced(name), 60.0)
    taken = seconds(planned)
    total = sum(planned.stages[stage].steps * taken[stage] for stage in planned_stages(planned, "all"))
    assert total == pytest.approx(3600, rel=0.01)
    assert all(stage.warmup_steps <= stage.steps for stage in planned.stages.values())
    if name in ("isbi2024", "phantom"):
        assert planned.stages["aggregator"].steps == 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    given = argparse.Namespace(work=tmp_path, minutes=1.0, cases=5, tests=3, samples=2, workers=1)
    return Bench(given)


class Commands:
    """Stands for the commands: keeps them, checks that each has its options, leaves what they would."""

    def __init__(self, refused: bool = False, faults: dict[str, list[list[str]]] | None = None) -> None:
        self.made, self.refused, self.faults = list[list[str]](), refused, faults or {}  # faults a sample, of a system

    def __call__(self, words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        command = words[3:]
        self.made.append(command)
        named: Any = typer.main.get_command(app)
        for word in command[:2] if command[0] == "data" else command[:1]:
            named = cast(Any, named).get_command(typer.Context(named), word)
        names = {option for parameter in named.params for option in parameter.opts}
        assert {word for word in command if word.startswith("--")} <= names
        if command[:2] == ["data", "check"]:
            return self._checked(words, Path(command[2]))
        if command[0] == "generate":
            self._drawn(Path(command[command.index("--out") + 1]))
        refuses = self.refused and command[0] == "export" and "--force" not in command
        if command[0] == "evaluate":
            out = Path(command[command.index("--out") + 1])
            out.mkdir()
            (out / "evaluation.json").write_text(json.dumps({"inputs": {"usable": None}}))
        return subprocess.CompletedProcess(
            words, 3 if refuses else 0, "", "exporting\nerror: no brains" if refuses else ""
        )

    def _drawn(self, samples: Path) -> None:
        samples.mkdir()
        faults = [None] * len(self.faults.get(samples.parent.name, [[], []]))
        lines = [{"id": str(k), "fault": fault} for k, fault in enumerate([*faults, *["empty"] * 2][:2])]
        (samples / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _checked(self, words: list[str], samples: Path) -> subprocess.CompletedProcess[str]:
        found = self.faults.get(samples.parent.name, [[], []])
        told = json.dumps({"cases": [{"ok": not faults, "faults": faults} for faults in found]}) if found else ""
        return subprocess.CompletedProcess(words, 3 if not found or any(found) else 0, told, "")


@pytest.mark.parametrize("refused", [False, True])
def test_commands_are_made_once(bench: Bench, monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    commands = Commands(refused)
    monkeypatch.setattr(subprocess, "run", commands)
    monkeypatch.setattr(published_forms, "step_seconds", lambda *_, **__: dict.fromkeys(published_forms.SHARES, 1.0))
    bench.cohorts()
    found = bench.system("isbi2024")
    bench.cohorts()
    assert bench.system("isbi2024") == found
    made = [command[0] for command in commands.made]
    exports = ["export", "export"] if refused else ["export"]
    assert made == ["phantom", "phantom", "train", *exports, "generate", "data", "evaluate"]
    assert "--held-out" in commands.made[1]
    assert "--held-out" not in commands.made[0]
    assert found.fault == ("error: no brains" if refused else None)
    assert found.steps["autoencoder"] == 30
    assert 0 < found.parameters < 20e6
    assert len((bench.work / "commands.log").read_text().splitlines()) == len(made)


@pytest.mark.parametrize(
    ("faults", "sound", "why"),
    [
        ([[], []], "2 of 2", None),
        ([[], ["no background"]], "1 of 2", "no background"),
        ([["no background", "no mask"], ["no mask"]], "0 of 2", "no background"),
        ([[]], "1 of 2", "1: empty"),
        ([["no background"]], "0 of 2", "no background; 1: empty"),
        ([], "0 of 2", "0: empty"),
    ],
    ids=["all sound", "one sound", "none sound", "one not made", "one not made, one faulty", "none made"],
)
def test_samples_that_cannot_be_evaluated_are_told_and_the_next_system_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[list[str]], sound: str, why: str | None
) -> None:
    commands = Commands(faults={"isbi2024": faults})
    monkeypatch.setattr(subprocess, "run", commands)
    monkeypatch.setattr(published_forms, "step_seconds", lambda *_, **__: dict.fromkeys(published_forms.SHARES, 1.0))
    assert main(["--work", str(tmp_path), "--systems", "isbi2024,phantom", "--samples", "2", "--minutes", "1"]) == 0
    evaluations = [command for command in commands.made if command[0] == "evaluate"]
    assert [("--synthetic" in command, "--train" in command) for command in evaluations] == [
        (not sound.startswith("0"),) * 2,
        (True, True),
    ]
    text = (tmp_path / "systems.md").read_text()
    assert f"| sound samples | {sound} | 2 of 2 |" in text
    told = f"- isbi2024: {sound} samples are sound: {why}"
    assert (told in text) if why else ("samples are sound" not in text)


def test_a_command_that_fails_ends_the_comparison(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 2, "", "no such"))
    with pytest.raises(InvalidInputError, match=r"sbldm-engine phantom .*exit 2\nno such"):
        bench.cohorts()
    assert not (bench.work / "train.json").exists()


def test_the_table_has_a_column_a_system() -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    told = {
        "agreement": {"wt": {"synthetic": figure, "real": figure, "swapped": None}},
        "distribution": {"segmenter": {"mmd": {"synthetic": figure, "floor": {**figure, "value": 0.1}}}},
        "adherence": {"volume_ml": {"median_relative_error": 0.05}}, "adherence_errors": {"volume_ml": {"r": figure}},
        "reconstruction": {"coarse": {"psnr_brain": {**figure, "value": 21.0}}, "refined": {"psnr_brain": figure}},
    }  # fmt: skip
    systems = [
        System("ours", {"autoencoder": 7}, 1_500_000, 2.5, 120.0, None, 3.0, Samples(9, 9, []), told),
        System(
            "theirs",
            {"denoiser": 9},
            2_000_000,
            3.5,
            240.0,
            "error: no brains\nmend it",
            4.0,
            Samples(9, 0, ["no mask"]),
            {},
        ),
    ]
    assert systems[0].notes() == []
    assert systems[1].notes() == ["theirs: no brains", "theirs: 0 of 9 samples are sound: no mask"]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in table(systems).splitlines()
    }
    assert rows[""] == ["ours", "theirs"]
    assert rows["steps"] == ["autoencoder 7", "denoiser 9"]
    assert rows["gate of the export"] == ["passed", "refused (forced)"]
    assert rows["Dice WT image against mask"] == ["0.5 (0.4 to 0.6)", "-"]
    assert rows["kernel MMD (floor)"] == ["0.5 (0.1)", "- (-)"]
    assert rows["volume: r; median relative error"] == ["0.5 (0.4 to 0.6); 0.05", "-; -"]
    assert rows["PSNR of reconstructed brains, dB"] == ["0.5 (0.4 to 0.6)", "-"]

"""A power cut after every file operation of a run, a merge, an addition to a data set, and of the engine cache.

States that hold what was promised when they arose are gone on with on the disk; all end in the same bytes. Each place
that asks for a sync is then left out in turn: a promise must break.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sbldm.engine.backends.tensorrt.cache import EngineCache, EngineKey
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import IncompleteRunError, InvalidInputError, UsageError
from sbldm.engine.run.description import RunDescription
from sbldm.engine.run.ledger import Shard, parse_line
from sbldm.engine.run.merge import merge_runs
from sbldm.engine.run.nnunet_journal import JOURNAL_NAME
from sbldm.engine.run.nnunet_split import add_to_dataset
from sbldm.engine.run.verify import verify_run

from tests.support.crash import (
    RecordingOs,
    State,
    crash_states,
    failing_at,
    lay_out,
    recorded,
    snapshot,
    sync_sites,
)
from tests.support.stub_runs import make_run, stub_plan

Broken = Callable[[State, list[str]], str | None]


@pytest.fixture(scope="module")
def plan(tiny_bundle: Bundle) -> RunDescription:
    return stub_plan(tiny_bundle, 2)


def below(state: State, folder: str) -> State:
    """The part of a state that lies in a folder."""
    return {name.removeprefix(f"{folder}/"): data for name, data in state.items() if name.startswith(f"{folder}/")}


def finished(state: State) -> State:
    """Files alone."""
    return {name: data for name, data in state.items() if data is not None}


def run_promises(run: RunDescription, expected: State) -> Broken:
    """What any state of a run's directory `out` must hold."""

    def broken(state: State, said: list[str]) -> str | None:
        files = finished(below(state, "out"))
        lines = (files.get("ledger.jsonl") or b"").splitlines(keepends=True)
        recorded_samples = set()
        for line in lines:
            try:
                record = parse_line(line, run)
            except InvalidInputError:
                continue
            recorded_samples.add(record.sample)
            for entry in record.files:
                data = files.get(entry.path)
                if data is None or hashlib.sha256(data).hexdigest() != entry.sha256:
                    return f"{entry.path} is recorded and not there"
        if any(not name.startswith("run.json") for name in files) and files.get("run.json") != expected["run.json"]:
            return "there are files and no run.json"
        for what in said:
            if what.startswith("sample ") and int(what.split()[1]) not in recorded_samples:
                return f"{what} was told and is not recorded"
        if "manifest.csv" in files and any(files.get(name) != data for name, data in expected.items()):
            return "manifest.csv is there and what it tells of is not"
        if "done" in said and files != expected:
            return "the run was done and is not there"
        return None

    return broken


def test_a_run_survives_a_power_cut_at_any_moment(
    tiny_bundle: Bundle, plan: RunDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two samples the first fails, so that its line is the first thing that must last."""
    base, bad = tmp_path / "base", {0: {0}}
    base.mkdir()
    stand_in = RecordingOs(base)
    recorded(monkeypatch, stand_in, lambda: make_run(tiny_bundle, plan, base / "out", said=stand_in.said, bad=bad))
    expected = finished(snapshot(base / "out"))
    broken = run_promises(plan, expected)
    tried = 0
    for state, said in crash_states(stand_in.log, {}, stand_in.contents):
        assert broken(state, said) is None
        place = tmp_path / "state"
        lay_out(state, place)
        assert make_run(tiny_bundle, plan, place / "out", bad=bad) == 1
        assert finished(snapshot(place / "out")) == expected
        shutil.rmtree(place)
        tried += 1
    print(f"{tried} states after {len(stand_in.log)} operations of a run")
    assert tried > len(stand_in.log)
    sites = sync_sites(stand_in.log)
    assert len(sites) >= 9
    for site in sites:
        states = crash_states(stand_in.log, {}, stand_in.contents, without=site)
        assert any(broken(state, said) for state, said in states), f"nothing needs the sync of {site}"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, 0], ids=["EIO", "ENOSPC", "EDQUOT", "short"])
def test_a_fault_at_any_operation_of_a_run_is_told_and_can_be_gone_on_from(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Exit code 5, or 2 where nothing was made yet; never another exception, and the same bytes after a resume."""
    plan = stub_plan(tiny_bundle, 1)
    stand_in = RecordingOs(tmp_path)
    recorded(monkeypatch, stand_in, lambda: make_run(tiny_bundle, plan, tmp_path / "whole"))
    expected = finished(snapshot(tmp_path / "whole"))
    for number in range(stand_in.count):
        out = tmp_path / f"out{number}"
        faulty = RecordingOs(tmp_path, failing_at(number, code))
        try:
            recorded(monkeypatch, faulty, lambda out=out: make_run(tiny_bundle, plan, out))
        except IncompleteRunError:
            pass
        except UsageError:
            assert code in (errno.EIO,)
            assert not list(out.rglob("*.nii.gz"))
        else:
            assert code == 0  # operations that are no writes
        assert make_run(tiny_bundle, plan, out) == 0
        assert finished(snapshot(out)) == expected


def test_a_merge_survives_a_power_cut_at_any_moment(
    tiny_bundle: Bundle, plan: RunDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, shards = tmp_path / "base", [tmp_path / f"s{k}" for k in range(2)]
    base.mkdir()
    for k, shard in enumerate(shards):
        make_run(tiny_bundle, plan, shard, Shard(k, 2))
    before = [snapshot(shard) for shard in shards]
    stand_in = RecordingOs(base)
    recorded(monkeypatch, stand_in, lambda: merge_runs(shards, base / "out"))
    stand_in.said("done")
    expected = finished(snapshot(base / "out"))
    broken = run_promises(plan, expected)
    tried = 0
    for state, said in crash_states(stand_in.log, {}, stand_in.contents):
        assert broken(state, said) is None
        place = tmp_path / "state"
        lay_out(state, place)
        merge_runs(shards, place / "out")
        assert finished(snapshot(place / "out")) == expected
        shutil.rmtree(place)
        tried += 1
    print(f"{tried} states after {len(stand_in.log)} operations of a merge")
    assert [snapshot(shard) for shard in shards] == before
    for site in sync_sites(stand_in.log):
        states = crash_states(stand_in.log, {}, stand_in.contents, without=site)
        assert any(broken(state, said) for state, said in states), f"nothing needs the sync of {site}"


@pytest.fixture
def dataset(tmp_path: Path, plan: RunDescription) -> Path:
    """An nnU-Net raw data set of five cases, without folds."""
    root = tmp_path / "base" / "Dataset500_Real"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    cases = [f"case_{k}" for k in range(5)]
    for case in cases:
        (root / f"labelsTr/{case}.nii.gz").write_bytes(case.encode())
        (root / f"imagesTr/{case}_0000.nii.gz").write_bytes(case.encode())
    labels = {name: k for k, name in enumerate(plan.bundle.labels)}
    channels = dict(zip("0123", ("T1", "T1ce", "T2", "FLAIR"), strict=True))
    described = {"channel_names": channels, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


@pytest.mark.parametrize("fails", [None, 20, 31], ids=["added", "undone early", "undone late"])
def test_an_addition_is_whole_or_absent_after_a_power_cut_at_any_moment(
    tiny_bundle: Bundle, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, fails: int | None
) -> None:
    source, root = tmp_path / "run", dataset.parent
    splits = root / "preprocessed" / "Dataset500_Real" / "splits_final.json"
    make_run(tiny_bundle, stub_plan(tiny_bundle, 2, layout="nnunet"), source)
    there = snapshot(root)
    before = finished(there)
    stand_in = RecordingOs(root, (lambda _n, _k: None) if fails is None else failing_at(fails, errno.EIO))

    def add() -> None:
        try:
            add_to_dataset(source, dataset, splits)
        except IncompleteRunError:
            assert fails is not None
        else:
            stand_in.said("added")

    recorded(monkeypatch, stand_in, add)
    if fails is not None:
        assert finished(snapshot(root)) == before
        add_to_dataset(source, dataset, splits)
    after = finished(snapshot(root))
    assert len(after) == len(before) + 11
    journal = f"{dataset.name}/{JOURNAL_NAME}"

    def broken(state: State, said: list[str]) -> str | None:
        told = {name: data for name, data in finished(state).items() if not name.endswith(".tmp")}
        if told.get(journal) or told in (before, after):
            if "added" in said and told != after:
                return "it was added and is not there"
            return None
        rest = {name: data for name, data in told.items() if name != journal}
        return None if rest == before else "half of it is there, and no journal"

    tried = 0
    for state, said in crash_states(stand_in.log, there, stand_in.contents):
        assert broken(state, said) is None
        shutil.rmtree(root)
        lay_out(state, root)
        add_to_dataset(source, dataset, splits)
        assert finished(snapshot(root)) == after
        tried += 1
    print(f"{tried} states after {len(stand_in.log)} operations of an addition")
    for site in sync_sites(stand_in.log):
        if fails is not None and not any(":_undo:" in part for part in site):
            continue  # what came before is looked at where it succeeds
        states = crash_states(stand_in.log, there, stand_in.contents, without=site)
        assert any(broken(state, said) for state, said in states), f"nothing needs the sync of {site}"


def test_the_engine_cache_never_gives_a_wrong_engine_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = EngineKey("denoiser", "ab" * 32, "tensorrt", "10.0", "13000", "90", "fp32", "1-1-1")
    base = tmp_path / "base"
    base.mkdir()
    stand_in = RecordingOs(base)
    blob = b"engine" * 100
    recorded(monkeypatch, stand_in, lambda: EngineCache(base).get_or_build(key, lambda: (blob, {"seconds": 1})))
    tried = 0
    for state, _ in crash_states(stand_in.log, {}, stand_in.contents):
        place = tmp_path / "state"
        lay_out(state, place)
        found = EngineCache(place).lookup(key)
        assert found is None or found.blob == blob
        assert EngineCache(place).get_or_build(key, lambda: (blob, {"seconds": 1})).blob == blob
        shutil.rmtree(place)
        tried += 1
    print(f"{tried} states after {len(stand_in.log)} operations of the engine cache")


def test_a_run_after_a_crash_verifies(tiny_bundle: Bundle, plan: RunDescription, tmp_path: Path) -> None:
    make_run(tiny_bundle, plan, tmp_path / "out")
    assert verify_run(tmp_path / "out").faults == ()

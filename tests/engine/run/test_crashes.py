"""A power cut after every file operation of a run, a merge, an addition to a data set, and of the engine cache.

States that hold what was promised when they arose are gone on with on the disk; all end in the same bytes. Each place
that asks for a sync is then left out in turn: a promise must break.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

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


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced is recorded; that this disk does it as well would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def plan(tiny_bundle: Bundle) -> RunDescription:
    return stub_plan(tiny_bundle, 2)


def below(state: State, folder: str) -> State:
    """The part of a state that lies in a folder."""
    return {name.removeprefix(f"{folder}/"): data for name, data in state.items() if name.startswith(f"{folder}/")}


def finished(state: State) -> State:
    """Files alone."""
    return {name: data for name, data in state.items() if data is not None}


def run_promises(run: RunDescription, expected: State, audited: str | None = None) -> Broken:
    """What any state of a run's directory `out` must hold; `audited`: what was done, as the audit trail names it."""

    def broken(state: State, said: list[str]) -> str | None:
        files = finished(below(state, "out"))
        trail = files.pop("audit.jsonl", None) or b""
        made = any(name.startswith("sbldm-") for name in below(state, "out"))  # a folder too
        if audited is not None and made and f"{audited} started".encode() not in trail:
            return "something is made and nobody is told to have begun it"
        if audited is not None and "done" in said and f"{audited} ended".encode() not in trail:
            return "it was done and its end is not recorded"
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


FAULTS = pytest.mark.parametrize(
    "code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, 0], ids=["EIO", "ENOSPC", "EDQUOT", "short"]
)


def refused(
    monkeypatch: pytest.MonkeyPatch, root: Path, at: tuple[int, str], code: int, work: Callable[[], Any]
) -> bool:
    """Whether work said what is wrong when its operation `at` (number, kind) failed; any other exception is a bug."""
    faulty = RecordingOs(root, failing_at(at[0], code))
    try:
        recorded(monkeypatch, faulty, work)
    except IncompleteRunError:
        return True
    except UsageError:
        assert code == errno.EIO, "a full disk ends with 5"
        return True
    except InvalidInputError:
        assert (code, at[1]) == (errno.EIO, "open"), "what cannot be read is bad input, what cannot be written is not"
        return True
    return False


@FAULTS
def test_a_fault_at_any_operation_of_a_run_is_told_and_can_be_gone_on_from(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Exit code 5, or 2 where nothing was made yet; never another exception, and the same bytes after a resume."""
    plan = stub_plan(tiny_bundle, 1)
    stand_in = RecordingOs(tmp_path)
    recorded(monkeypatch, stand_in, lambda: make_run(tiny_bundle, plan, tmp_path / "whole"))
    expected = finished(snapshot(tmp_path / "whole"))
    for at in enumerate(stand_in.kinds):
        out = tmp_path / f"out{at[0]}"
        was_told = refused(monkeypatch, tmp_path, at, code, lambda out=out: make_run(tiny_bundle, plan, out))
        if not was_told or (out / "manifest.csv").exists():
            assert finished(snapshot(out)) == expected
        assert make_run(tiny_bundle, plan, out) == 0
        assert finished(snapshot(out)) == expected
    print(f"{len(stand_in.kinds)} operations of a run failed")


@FAULTS
def test_a_fault_at_any_operation_of_a_merge_is_told_and_it_can_be_done_again(
    tiny_bundle: Bundle, plan: RunDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shards = [tmp_path / f"s{k}" for k in range(2)]
    for k, shard in enumerate(shards):
        make_run(tiny_bundle, plan, shard, Shard(k, 2))
    before = [snapshot(shard) for shard in shards]
    stand_in = RecordingOs(tmp_path)
    recorded(monkeypatch, stand_in, lambda: merge_runs(shards, tmp_path / "whole"))
    expected = finished(snapshot(tmp_path / "whole"))
    for at in enumerate(stand_in.kinds):
        out = tmp_path / f"out{at[0]}"
        was_told = refused(monkeypatch, tmp_path, at, code, lambda out=out: merge_runs(shards, out))
        if not was_told or (out / "manifest.csv").exists():
            assert finished(snapshot(out)) == expected
        assert [snapshot(shard) for shard in shards] == before
        merge_runs(shards, out)
        assert finished(snapshot(out)) == expected
    print(f"{len(stand_in.kinds)} operations of a merge failed")


@FAULTS
def test_a_fault_at_any_operation_of_an_addition_leaves_the_data_set_as_it_was(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """All of it is there or nothing; and the same command then adds all."""
    source, plan = tmp_path / "run", stub_plan(tiny_bundle, 1, layout="nnunet")
    make_run(tiny_bundle, plan, source)
    untouched = snapshot(source)

    def add(root: Path) -> None:
        add_to_dataset(source, root / "Dataset500_Real", root / "preprocessed" / "splits_final.json")

    def place(name: str) -> tuple[Path, State]:
        root = tmp_path / name
        make_dataset(root, plan)
        return root, finished(snapshot(root))

    whole, before = place("whole")
    stand_in = RecordingOs(tmp_path)
    recorded(monkeypatch, stand_in, lambda: add(whole))
    after = finished(snapshot(whole))
    for at in enumerate(stand_in.kinds):
        root, _ = place(f"at{at[0]}")
        was_told = refused(monkeypatch, tmp_path, at, code, lambda root=root: add(root))
        assert finished(snapshot(root)) == (before if was_told else after)
        add(root)
        assert finished(snapshot(root)) == after
        assert snapshot(source) == untouched
    print(f"{len(stand_in.kinds)} operations of an addition failed")


@FAULTS
def test_a_fault_at_any_operation_of_the_engine_cache_is_told_and_leaves_no_wrong_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    stand_in = RecordingOs(tmp_path)
    recorded(monkeypatch, stand_in, lambda: fill_cache(tmp_path / "whole"))
    for number in range(len(stand_in.kinds)):
        root, faulty = tmp_path / f"at{number}", RecordingOs(tmp_path, failing_at(number, code))
        with suppress(UsageError):
            recorded(monkeypatch, faulty, lambda root=root: fill_cache(root))
        found = EngineCache(root).lookup(KEY)
        assert found is None or found.blob == BLOB
        assert not list(root.rglob("*.tmp"))
        fill_cache(root)
        assert finished(snapshot(root)) == finished(snapshot(tmp_path / "whole"))
    print(f"{len(stand_in.kinds)} operations of the engine cache failed")


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
    broken = run_promises(plan, expected, "merge")
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


def make_dataset(root: Path, plan: RunDescription) -> Path:
    """An nnU-Net raw data set of five cases, without folds."""
    dataset = root / "Dataset500_Real"
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True)
    for case in range(5):
        (dataset / f"labelsTr/case_{case}.nii.gz").write_bytes(b"label")
        (dataset / f"imagesTr/case_{case}_0000.nii.gz").write_bytes(b"image")
    labels = {name: k for k, name in enumerate(plan.bundle.labels)}
    channels = dict(zip("0123", ("T1", "T1ce", "T2", "FLAIR"), strict=True))
    described = {"channel_names": channels, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(described))
    return dataset


def addition_promises(dataset: Path, before: State, after: State) -> Broken:
    """What any state of the folder around a data set must hold."""
    journal = f"{dataset.name}/{JOURNAL_NAME}"

    def broken(state: State, said: list[str]) -> str | None:
        told = {name: data for name, data in finished(state).items() if not name.endswith(".tmp")}
        if "added" in said:
            return None if told == after else "it was added and is not there"
        if told.get(journal) or told in (before, after):
            return None
        rest = {name: data for name, data in told.items() if name != journal}
        return None if rest == before else "half of it is there, and no journal"

    return broken


def test_an_addition_is_whole_or_absent_after_a_power_cut_at_any_moment(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added; undone after a fault, early and late; and where the files were there and the folds alone change.

    The early fault hits a scan, the late one the folder once its dataset.json is the new one.
    """
    source, plan = tmp_path / "run", stub_plan(tiny_bundle, 1, layout="nnunet")
    make_run(tiny_bundle, plan, source)
    needed: dict[tuple[str, ...], bool] = {}
    kinds: list[str] = []
    for scenario, fails in (("added", None), ("undone early", -29), ("undone late", -3), ("files are there", None)):
        root = tmp_path / scenario
        dataset = make_dataset(root, plan)
        splits = root / "preprocessed" / dataset.name / "splits_final.json"
        if scenario == "files are there":
            for folder in ("imagesTr", "labelsTr"):
                shutil.copytree(source / folder, dataset / folder, dirs_exist_ok=True)
        there = snapshot(root)
        before = finished(there)
        fault = (lambda _n, _k: None) if fails is None else failing_at(len(kinds) + fails, errno.EIO)
        stand_in = RecordingOs(root, fault)
        if fails is None:
            recorded(monkeypatch, stand_in, lambda d=dataset, s=splits: add_to_dataset(source, d, s))
            stand_in.said("added")
            kinds = kinds or stand_in.kinds
        else:
            with pytest.raises(IncompleteRunError, match="as it was"):
                recorded(monkeypatch, stand_in, lambda d=dataset, s=splits: add_to_dataset(source, d, s))
            assert finished(snapshot(root)) == before
            add_to_dataset(source, dataset, splits)
        after = finished(snapshot(root))
        assert len(after) == 11 + 1 + 5
        broken = addition_promises(dataset, before, after)
        tried = 0
        for state, said in crash_states(stand_in.log, there, stand_in.contents):
            assert broken(state, said) is None
            shutil.rmtree(root)
            lay_out(state, root)
            add_to_dataset(source, dataset, splits)
            assert finished(snapshot(root)) == after
            tried += 1
        print(f"{tried} states after {len(stand_in.log)} operations of an addition ({scenario})")
        for site in sync_sites(stand_in.log):
            states = crash_states(stand_in.log, there, stand_in.contents, without=site)
            place = tuple(part for part in site if not part.startswith("test_"))  # whichever scenario came by
            needed[place] = needed.get(place, False) or any(broken(state, said) for state, said in states)
    unneeded = [site for site, is_needed in needed.items() if not is_needed]
    # the folders of a data set are there before; that the names of new ones are synced, a merge needs
    assert [site for site in unneeded if not any(part.startswith("folder.py:_parent:") for part in site)] == []


KEY = EngineKey("denoiser", "ab" * 32, "tensorrt", "10.0", "13000", "any", "90", "none", "fp32", "off", "4096", "1")
BLOB = b"engine" * 100


def fill_cache(root: Path, said: Callable[[str], None] = lambda _: None) -> None:
    """Build an engine and note what was measured of it."""
    cache = EngineCache(root)
    cache.get_or_build(KEY, lambda: (BLOB, {"seconds": 1}))
    said("built")
    cache.update_figures(KEY, {"milliseconds": 2})
    said("measured")


def test_the_engine_cache_never_gives_a_wrong_engine_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it said was built, and measured, is there."""
    base, place = tmp_path / "base", tmp_path / "state"
    base.mkdir()
    stand_in = RecordingOs(base)
    recorded(monkeypatch, stand_in, lambda: fill_cache(base / "cache", stand_in.said))

    def broken(state: State, said: list[str]) -> str | None:
        lay_out(state, place)
        found = EngineCache(place / "cache").lookup(KEY)
        shutil.rmtree(place)
        if found is None:
            return "it was built and is not there" if said else None
        if found.blob != BLOB:
            return "another engine is there"
        return (
            "it was measured and that is lost" if "measured" in said and "milliseconds" not in found.figures else None
        )

    tried = 0
    for state, said in crash_states(stand_in.log, {}, stand_in.contents):
        assert broken(state, said) is None
        lay_out(state, place)
        fill_cache(place / "cache")
        assert EngineCache(place / "cache").lookup(KEY) is not None
        shutil.rmtree(place)
        tried += 1
    print(f"{tried} states after {len(stand_in.log)} operations of the engine cache")
    for site in sync_sites(stand_in.log):
        states = crash_states(stand_in.log, {}, stand_in.contents, without=site)
        assert any(broken(state, said) for state, said in states), f"nothing needs the sync of {site}"


def test_a_run_after_a_crash_verifies(tiny_bundle: Bundle, plan: RunDescription, tmp_path: Path) -> None:
    make_run(tiny_bundle, plan, tmp_path / "out")
    assert verify_run(tmp_path / "out").faults == ("audit.jsonl: missing; who made this run is not known",)

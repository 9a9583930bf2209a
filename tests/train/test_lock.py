"""One training a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.engine.errors import UsageError
from sbldm.train.lock import require_own, writing_to

HOLDS = """
import sys, time
from pathlib import Path
from sbldm.train.lock import writing_to
with writing_to(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_told_who_trains_until_that_one_is_killed(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match=f"process {first.pid} on .* trains in it already"), writing_to(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with writing_to(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / "train.holder").read_text()
    assert not (tmp_path / "train.holder").exists()


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    for name in ("new", "mine", "begun", "trained"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "thesis.txt").write_bytes(b"mine")
    (tmp_path / "begun" / "cache").mkdir()  # of a training that was stopped before it wrote of itself
    for name in ("system.json", "notes.txt"):
        (tmp_path / "trained" / name).write_bytes(b"{}")
    for name in ("absent", "new", "begun", "trained"):
        require_own(tmp_path / name)
    for path in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(UsageError, match="--out"):
            require_own(path)


def test_ranks_beside_the_first_train_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing_to(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with writing_to(tmp_path):
            pass

"""`studio`: what it says before a page is opened. The page itself: tests/engine/studio."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle


@pytest.fixture
def asked(tiny_bundle: Bundle) -> list[str]:
    return ["studio", "--bundle", str(tiny_bundle.path), "--threads", "1"]


def test_a_port_that_is_taken_or_none(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([*asked, "--no-browser", "--port", str(taken.getsockname()[1])]) == 2
    told = capsys.readouterr()
    assert "cannot be listened at" in told.err
    assert "0 takes a free one" in told.err
    assert told.out == ""
    assert main([*asked, "--port", "70000"]) == 2
    assert main(["studio", "--bundle", "nowhere"]) == 3


def test_a_taken_port_ends_the_program_with_2_while_networks_are_loaded(asked: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "sbldm.cli.main", *asked, "--port", port], capture_output=True, text=True
        )
    assert ended.returncode == 2
    assert "explain studio" in ended.stderr


def test_a_browser_that_is_waited_for_is_answered(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(address: str) -> bool:
        with urllib.request.urlopen(address.partition("/#")[0], timeout=60) as answer:
            pages.append(answer.read())
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    pages: list[bytes] = []
    monkeypatch.setattr("webbrowser.open", wait)
    monkeypatch.chdir(tmp_path)
    assert main([*asked, "--port", "0"]) == 0
    assert len(pages[0]) > 1000


@pytest.mark.parametrize("opens", [True, False])
def test_the_address_is_printed_and_opened(
    asked: list[str], opens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    visited: list[str] = []

    def visit(address: str) -> bool:
        visited.append(address)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return opens

    monkeypatch.setattr("webbrowser.open", visit)
    monkeypatch.chdir(tmp_path)
    assert main([*asked, "--port", "0"]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == visited[0]
    assert visited[0].startswith("http://127.0.0.1:")
    assert len(visited[0].partition("/#")[2]) >= 32
    assert ("no browser can be opened" in told.err) is not opens
    assert list(tmp_path.iterdir()) == []

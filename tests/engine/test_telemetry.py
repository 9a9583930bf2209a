"""Metrics as Prometheus reads them, and log lines on streams of every kind."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path

import pytest
from sbldm.engine.errors import UsageError
from sbldm.engine.telemetry import EventLog, Telemetry, prometheus_text


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_counters_keep_all_their_digits() -> None:
    telemetry = Telemetry(total=9)
    telemetry.add_seconds({"decode": 1.25})
    found = values(prometheus_text(telemetry.snapshot() | {"done": 1234567, "failed": 2**53 - 1}))
    assert found["sbldm_volumes_done_total"] == 1234567
    assert found["sbldm_volumes_failed_total"] == 2**53 - 1
    assert found["sbldm_volumes_wanted"] == 9
    assert found['sbldm_stage_seconds_total{stage="decode"}'] == 1.25


@pytest.mark.parametrize("where", ["missing/m.prom", "."])
def test_a_metrics_file_that_cannot_be_is_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--metrics-file"):
        Telemetry(metrics_file=tmp_path / where).start_metrics()


def test_a_metrics_file_that_fails_later_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    telemetry = Telemetry(metrics_file=folder / "m.prom")
    telemetry.start_metrics()
    (folder / "m.prom").unlink()
    folder.rmdir()
    telemetry.write_metrics()
    telemetry.write_metrics()
    assert len(caplog.records) == 1
    assert "the run goes on" in caplog.text


class Gone(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Gone(), None])
def test_a_stream_that_takes_nothing_ends_nothing(
    stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    EventLog().event("told", path="x")
    assert capsys.readouterr().out == ""


def test_what_libraries_say_is_json_too() -> None:
    stream = io.StringIO()
    log = EventLog("json", stream)
    with log.of_libraries():
        logging.getLogger("sbldm").warning("a lock")
        logging.getLogger("sbldm").info("a sign of life")
        warnings.warn("a warning", RuntimeWarning, stacklevel=1)
    with log.of_libraries(quiet=True):
        logging.getLogger("sbldm").info("not told")
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["event"]) for line in told] == [
        ("warning", "a lock"),
        ("info", "a sign of life"),
        ("warning", "a warning"),
    ]

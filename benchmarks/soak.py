"""A long `generate`, watched: does its memory stay flat, do its volumes take as long at the end as at the beginning?

    python -m sbldm.benchmarks.soak --count 10000 --out FOLDER [--bundle phantom] [--backend auto] [--workers 1]

`generate --count N` runs in a process of its own; resident memory, seconds and processor seconds are noted sample by
sample in FOLDER/soak.jsonl. Volumes are removed as soon as they are noted (--keep leaves them), so that the disk holds
a few at a time. An interrupted soak goes on by the same command: samples that were noted are not made again, and each
process is a leg with a level of its own. The first --warm-up samples of a leg do not count. Time is judged by the
seconds of samples during which other processes took at most 0.1 core; where less than half were so quiet, by processor
seconds. The last line of stdout is one JSON object. Exit code 0: memory and time are flat, each within 5 % over the
longest leg with 95 % confidence, and no sample failed; 1: not so, or not shown; 130: interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ..engine.errors import SbldmError, UsageError
from ..engine.portable import end_signals
from ..engine.run.ledger import Shard
from ..engine.screen import counted
from .flatness import Growth, Leg, growth
from .machine import BUSY_CORES, OtherLoad
from .process import family

POLL_S = 0.1
STOP_S = 60.0  # that an interrupted run has to end
JOURNAL = "soak.jsonl"


@dataclasses.dataclass(frozen=True)
class Note:
    """One finished sample."""

    leg: int
    sample: int
    seconds: float  # since the sample before it
    cpu_seconds: float  # of all processes of the run, meanwhile
    mib: float  # the most that was resident in all of them, meanwhile
    other_cores: float  # that other processes took meanwhile
    failed: bool


class Journal:
    """The notes of a soak on disk, and what was asked for.

    UsageError where the folder holds another soak, or something else.
    """

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self._path = folder / JOURNAL
        self.notes: list[Note] = []
        if not self._path.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UsageError(f"--out {folder}: holds something that is no soak; give a new or empty folder")
            folder.mkdir(parents=True, exist_ok=True)
        first, *lines = self._whole_lines() or [json.dumps(asked)]
        if json.loads(first) != asked:
            raise UsageError(f"--out {folder}: was begun with other options: {first}; give those, or a new folder")
        if not self._path.stat().st_size:
            self._append(asked)
        self.notes = [Note(**json.loads(line)) for line in lines]

    def _whole_lines(self) -> list[str]:
        """The lines of the file, which is made where it is not there; one that a kill tore is cut off."""
        with self._path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
        return content[: content.rfind(b"\n") + 1].decode().splitlines()

    def add(self, note: Note) -> None:
        """Keep a note."""
        self._append(dataclasses.asdict(note))
        self.notes.append(note)

    def _append(self, data: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(data)}\n")

    def missing(self, count: int) -> str:
        """Samples without a note, as `--samples` takes them; empty where there are none."""
        done = {note.sample for note in self.notes}
        ranges: list[list[int]] = []
        for sample in (sample for sample in range(count) if sample not in done):
            if ranges and ranges[-1][1] == sample - 1:
                ranges[-1][1] = sample
            else:
                ranges.append([sample, sample])
        return ",".join(f"{first}-{last}" for first, last in ranges)


class Watch:
    """What a process and its children take between the samples that they finish."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._load, self._at, self._noted = OtherLoad(), time.perf_counter(), 0.0
        self._cpu, self._peak = 0.0, 0
        self.look()

    def look(self) -> None:
        """Read what they take now."""
        cpu, resident = self._taken()
        self._cpu, self._peak = max(self._cpu, cpu), max(self._peak, resident)  # both are 0 of what has ended

    def notes(self, leg: int, records: Sequence[dict[str, Any]]) -> list[Note]:
        """Of samples that were finished since the last notes: each gets an equal share of the time."""
        now, load, share = time.perf_counter(), self._load.cores(), 1 / len(records)
        wall, cpu, mib = now - self._at, self._cpu - self._noted, self._peak / 2**20
        self._at, self._noted, self._peak = now, self._cpu, 0
        self._load.start()
        other = max(0.0, load - cpu / wall)
        return [Note(leg, r["sample"], wall * share, cpu * share, mib, other, r["fault"] is not None) for r in records]

    def _taken(self) -> tuple[float, int]:
        """Processor seconds and resident bytes of the whole family."""
        seconds, resident = 0.0, 0
        for pid in family(self._pid):
            with suppress(psutil.NoSuchProcess):  # it has ended
                process = psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                seconds += times.user + times.system
        return seconds, resident


class Tail:
    """The whole lines of a growing ledger, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that came since the last call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + bool(whole)
        yield from map(json.loads, whole.splitlines())


def run_leg(journal: Journal, given: argparse.Namespace) -> int:
    """Make what is missing in one process; its exit code, 130 where it was interrupted."""
    run: Path = given.out / "run"
    if run.exists() and not given.keep:
        shutil.rmtree(run)  # what an interrupted leg left; nothing of it is noted
    leg = 1 + max((note.leg for note in journal.notes), default=-1)
    out = run if not given.keep else given.out / f"run-{leg}"
    command = [sys.executable, "-m", "sbldm.cli.main", "generate", "--quiet", "--out", str(out)]
    command += ["--count", str(given.count), "--samples", journal.missing(given.count), "--bundle", given.bundle]
    command += ["--backend", given.backend, "--workers", str(given.workers)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        watch, tail = Watch(process.pid), Tail(out / Shard().ledger_name)

        def note_what_is_new() -> None:
            watch.look()
            if records := list(tail.new()):
                for note, record in zip(watch.notes(leg, records), records, strict=True):
                    journal.add(note)
                    if not given.keep:
                        _remove(out, record)

        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                note_what_is_new()
            code = process.returncode
        except KeyboardInterrupt:
            code = 130
        finally:
            _stop(process)
        note_what_is_new()
        errors.seek(0)
        print("" if code in (0, 130) else errors.read(), end="", file=sys.stderr)
    return code


def _remove(run: Path, record: dict[str, Any]) -> None:
    """The files of a sample, and its folder."""
    for entry in record["files"]:
        path = run / entry["path"]
        path.unlink(missing_ok=True)
        with suppress(OSError):  # another of its files is still there
            path.parent.rmdir()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def judge(notes: Sequence[Note], warm_up: int) -> dict[str, Any]:
    """Growth of memory and time as plain data, and whether both are flat."""
    legs = [[note for note in notes if note.leg == leg] for leg in sorted({note.leg for note in notes})]
    steady = [list(enumerate(leg))[warm_up:] for leg in legs]
    quiet = [[(at, note) for at, note in leg if note.other_cores <= BUSY_CORES] for leg in steady]
    of_all, of_quiet = sum(map(len, steady)), sum(map(len, quiet))

    def of(name: str, chosen: list[list[tuple[int, Note]]]) -> Growth | None:
        points: list[Leg] = [[(at, getattr(note, name)) for at, note in leg] for leg in chosen]
        return growth(points)

    found = {"mib": of("mib", steady), "seconds": of("seconds", quiet), "cpu_seconds": of("cpu_seconds", steady)}
    by = "seconds" if 2 * of_quiet >= of_all else "cpu_seconds"
    failed = sum(note.failed for note in notes)
    verdicts = {name: "undecided" if one is None else one.verdict for name, one in found.items()}
    return {
        "samples": len(notes),
        "failed": failed,
        "legs": len(legs),
        "quiet_share": of_quiet / of_all if of_all else 0.0,
        "time_is_judged_by": by,
        "growth": {name: None if one is None else dataclasses.asdict(one) for name, one in found.items()},
        "verdicts": verdicts,
        "flat": failed == 0 and verdicts["mib"] == verdicts[by] == "flat",
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["| | mean | growth over the longest leg, 95 % interval | |", "| --- | --- | --- | --- |"]
    names = {
        "mib": "most resident during a volume, MiB",
        "seconds": "seconds a volume, quiet",
        "cpu_seconds": "processor seconds a volume",
    }
    for name, title in names.items():
        one = figures["growth"][name]
        cells = (
            ["", ""]
            if one is None
            else [f"{one['mean']:.4g}", "{growth:+.3g} ({low:+.3g} to {high:+.3g})".format(**one)]
        )
        lines.append("| " + " | ".join([title, *cells, figures["verdicts"][name]]) + " |")
    lines.append(
        f"\n{counted(figures['samples'], 'sample')} in {counted(figures['legs'], 'leg')}, {figures['failed']} failed, "
        f"{figures['quiet_share']:.0%} quiet; time is judged by {names[figures['time_is_judged_by']]}: "
        + ("FLAT" if figures["flat"] else "NOT FLAT, or not shown")
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=200, help="samples at the beginning of a leg that do not count")
    parser.add_argument("--keep", action="store_true", help="keep the volumes, 1.5 MB each")
    given = parser.parse_args(arguments)
    if given.count < 1 or given.warm_up < 0 or given.workers < 1:
        parser.error("--count and --workers must be 1 or more, --warm-up 0 or more")
    asked = {"count": given.count, "bundle": given.bundle, "backend": given.backend, "workers": given.workers}
    try:
        journal = Journal(given.out, asked)
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    code = run_leg(journal, given) if journal.missing(given.count) else 0
    figures = judge(journal.notes, given.warm_up)
    print(table(figures) + "\n")
    print(json.dumps(figures))
    if code == 130:
        print(f"interrupted after {len(journal.notes)} of {given.count}; the same command goes on", file=sys.stderr)
    return code if code not in (0, 5) else 0 if figures["flat"] else 1


if __name__ == "__main__":
    for number in end_signals():  # so that the run ends, too; what `nohup` ignores stays ignored
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())

"""What the safety of a run costs: checksums and containment against the time of a volume, and a resume.

    python -m sbldm.benchmarks.record_keeping --out /tmp/records

All but the resume in CPU seconds of this process, which a busy machine hardly changes. The samples that are recorded
have empty files, so that nothing but their names and their records costs. Figures as one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..engine.bundle.load import load_bundle
from ..engine.folder import Folder
from ..engine.run.directory import RunDirectory
from ..engine.run.job import Job, execute, prepare
from ..engine.run.ledger import QUALITY, FileEntry, SampleRecord, parse_line
from ..engine.run.owned import OwnNames
from ..engine.run.request import GenerateRequest
from ..engine.telemetry import Telemetry

_EMPTY = FileEntry("", hashlib.sha256(b"").hexdigest(), 0)
_MICRO = 1e6


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, all its threads, for `work`."""
    before = time.process_time()
    work()
    return time.process_time() - before


def volume_seconds(bundle: str, out: Path, volumes: int) -> float:
    """CPU seconds of a volume with the bundle's own settings, its model loaded before."""
    job = prepare(GenerateRequest(bundle=load_bundle(bundle), count=volumes, out=out))
    return cpu_seconds(lambda: execute(job, Telemetry(), threading.Event())) / volumes


def made_up(job: Job, sample: int) -> SampleRecord:
    """The record of a sample whose files are empty."""
    task, columns = job.requests.task(sample), job.run.bundle.columns
    files = tuple(FileEntry(path, _EMPTY.sha256, 0) for path in job.run.layout().paths(sample).values())
    requested = dict(zip(columns, task.requested, strict=True))
    return SampleRecord(sample, task.id, 0, requested, task.drawn, dict.fromkeys((*columns, *QUALITY), 1.0), files)


def write_contained(folder: Folder, names: list[str]) -> None:
    """Empty files as a run writes its own."""
    for name in names:
        folder.write(name, b"", sync=False)
    folder.sync(names[0])


def write_plainly(root: Path, names: list[str]) -> None:
    """The same files as lasting, by paths."""
    (root / names[0]).parent.mkdir()
    for name in names:
        with (root / f"{name}.tmp").open("wb") as handle:
            os.fsync(handle.fileno())
        os.replace(root / f"{name}.tmp", root / name)
    descriptor = os.open((root / names[0]).parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def checksum_seconds(job: Job, samples: int) -> float:
    """CPU seconds a sample for the checksum of its ledger line, written once and read twice (resume, manifest)."""
    records = [made_up(job, sample) for sample in range(samples)]
    lines = [record.to_line(job.run.id) for record in records]
    written = cpu_seconds(lambda: [record.to_line(job.run.id) for record in records])
    read = cpu_seconds(lambda: [parse_line(line, job.run) for line in lines])
    unchecked = cpu_seconds(lambda: [(json.dumps(vars(r), default=vars), json.loads(line)) for r, line in
                                     zip(records, lines, strict=True)])  # fmt: skip
    return max(written + 2 * read - unchecked, 0.0) / samples


def resume_seconds(out: Path, bundle: str, count: int) -> tuple[float, float]:
    """Wall and CPU seconds of the command that finds a complete run complete."""
    command = [sys.executable, "-m", "sbldm", "generate", "--bundle", bundle, "--count", str(count), "--resume"]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--out", str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def measure(out: Path, bundle: str, samples: int, volumes: int) -> dict[str, float]:
    """All figures by name; `out` is a new directory for what is written."""
    out.mkdir(parents=True)
    volume = volume_seconds(bundle, out / "volumes", volumes)
    job = prepare(GenerateRequest(bundle=load_bundle(bundle), count=samples, out=out / "run"))
    names = [list(job.run.layout().paths(sample).values()) for sample in range(samples)]
    (out / "plain").mkdir()
    with RunDirectory(job.out, job.run, job.selection) as directory, Folder(job.out, OwnNames(job.run)) as folder:
        contained = cpu_seconds(lambda: [write_contained(folder, paths) for paths in names]) / samples
        plain = cpu_seconds(lambda: [write_plainly(out / "plain", paths) for paths in names]) / samples
        for sample in range(samples):
            directory.record(made_up(job, sample))
        directory.close_complete()
    checksum, containment = checksum_seconds(job, samples), max(contained - plain, 0.0)
    wall, used = resume_seconds(job.out, bundle, samples)
    return {
        "volume_cpu_seconds": volume,
        "checksum_microseconds_a_sample": checksum * _MICRO,
        "containment_microseconds_a_sample": containment * _MICRO,
        "contained_files_microseconds_a_sample": contained * _MICRO,
        "percent_of_a_volume": 100 * (checksum + containment) / volume,
        "percent_of_a_volume_with_the_files_themselves": 100 * (checksum + contained) / volume,
        "resumed_samples": samples,
        "resume_wall_seconds": wall,
        "resume_cpu_seconds": used,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new directory")
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--samples", type=int, default=1000, help="of the run that is resumed")
    parser.add_argument("--volumes", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps(measure(given.out, given.bundle, given.samples, given.volumes)))


if __name__ == "__main__":
    main()

"""Writing and bookkeeping of a long run, without the networks: volumes a second, MB/s, memory as the count grows.

    python -m sbldm.benchmarks.writing_speed --count 10000 --out FOLDER

A stub in the place of the networks hands out one of a few procedural volumes of the default grid, so everything after
sampling is real: measuring, compression, fsync, ledger, manifest. Figures at the end as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from isal import igzip
from numpy.typing import NDArray

from ..engine.bundle.load import load_bundle
from ..engine.conditions.columns import blank
from ..engine.run.description import Resolved, describe
from ..engine.run.directory import RunDirectory
from ..engine.run.ledger import SampleRecord, Shard
from ..engine.run.pipeline import Pipeline
from ..engine.run.request import GenerateRequest
from ..engine.run.requests import Requests
from ..engine.run.selection import Selection
from ..engine.run.writer import Finisher
from ..engine.sampling.types import SampleRequest, Volume
from ..engine.telemetry import Telemetry

VARIANTS = 4
_MEGABYTE = 1e6


class StubLoop:
    """Noisy ball-shaped brains with ball-shaped tumours."""

    def __init__(self, shape: tuple[int, int, int], modalities: int) -> None:
        rng = np.random.default_rng(0)
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        brain = np.sqrt(sum(a**2 for a in axes)) < 0.75
        noise = rng.normal(500, 60, (VARIANTS, modalities, *shape))
        self.images = np.where(brain, np.clip(noise, 1, 1000), 0).astype(np.int16)
        self.labels = np.zeros((VARIANTS, *shape), np.uint8)
        for variant in range(VARIANTS):
            distance = np.sqrt(sum((a - 0.1 * variant) ** 2 for a in axes))
            self.labels[variant] = np.select([distance < 0.1, distance < 0.15, distance < 0.3], [1, 3, 2], 0)

    in_flight = 1

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """Nothing to denoise."""
        return lambda: self._volumes(requests)

    def _volumes(self, requests: Sequence[SampleRequest]) -> list[Volume]:
        """One of the variants, as fresh arrays."""
        picks = [request.number % VARIANTS for request in requests]
        return [
            Volume(r.number, r.attempt, self.images[v].copy(), self.labels[v].copy(), None)
            for r, v in zip(requests, picks, strict=True)
        ]


def write_many(count: int, out: Path, bundle_name: str, keep: bool) -> dict[str, float]:
    """Write `count` samples below `out`; figures by name. Without `keep` the images are removed once recorded."""
    bundle = load_bundle(bundle_name)
    grid = bundle.manifest.grid
    options = GenerateRequest(bundle=bundle, count=count).options()
    run = describe(bundle, options, Resolved("stub", "cpu", "fp32", 1, 1, "isal-1"), {"stub": "1"}, None)
    requests = Requests.of(blank([c.name for c in bundle.manifest.condition_columns]), bundle.manifest, 0)
    telemetry, process, resident = Telemetry(count), psutil.Process(), {}
    stub = StubLoop(grid.shape, len(bundle.manifest.modalities))
    written = 0
    start = time.perf_counter()
    with RunDirectory(out, run, Selection(count, 1, Shard())) as directory:

        def record(sample: SampleRecord) -> None:
            nonlocal written
            directory.record(sample)
            written += sum(entry.bytes for entry in sample.files)
            if not keep:
                for entry in sample.files:
                    (out / entry.path).unlink()

        with Pipeline(stub, Finisher(out, run, bundle.manifest, telemetry), record) as pipeline:
            for number, group in enumerate(requests.groups(range(count), 1), start=1):
                pipeline.feed(group)
                if number in (20, count):
                    resident[number] = process.memory_info().rss / _MEGABYTE
            pipeline.drain()
        directory.close_complete()
    seconds = time.perf_counter() - start
    return {
        "samples": count,
        "volumes_per_second": count / seconds,
        "written_mb_per_second": written / seconds / _MEGABYTE,
        "compression_mb_per_second_one_core": compression_rate(stub.images[0]),
        "resident_mb_after_20": resident.get(20, float("nan")),
        "resident_mb_at_the_end": resident[count],
        **{f"{name}_seconds_per_volume": s / count for name, s in telemetry.snapshot()["stage_seconds"].items()},
    }


def compression_rate(image: NDArray[np.int16], repeats: int = 8) -> float:
    """MB of raw int16 a second that one core compresses, as the writer does: the best of `repeats`."""
    data = image.tobytes()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        igzip.compress(data, 1, mtime=0)
        seconds.append(time.process_time() - start)
    return len(data) / min(seconds) / _MEGABYTE


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--keep", action="store_true", help="keep the images, 4 MB a sample")
    asked = parser.parse_args()
    print(json.dumps(write_many(asked.count, asked.out, asked.bundle, asked.keep)))


if __name__ == "__main__":
    main()

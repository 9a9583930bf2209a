"""What the host computes of a mask-first volume, part by part, in seconds of one core: what bounds a GPU's rate.

python -m sbldm.benchmarks.host_work [--bundle glioma] [--count 3]
python -m sbldm.benchmarks.host_work --processes 0 1 2 4 8 15 [--batch 8] [--batches N]

With `--processes` it tells volumes a second instead, if the networks took no time: of the loop of `generate --device
cuda` with so many processes beside its own, 0 for none. N batches are timed for each, by default processes + 2.

Seconds are processor time of one thread, so that other work on the machine lengthens them little. The networks, which a
GPU computes, and files are not among them. The least of each part over the volumes is told, too: the first volume loads
anatomies and tables.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np

from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.load import Bundle
from ..engine.cuda.footprint import MOST_STAGED
from ..engine.output.measure import measure_tumour
from ..engine.sampling import mask_first
from ..engine.sampling.batch import Batch
from ..engine.sampling.host import HostLoop
from ..engine.sampling.model import model_of
from ..engine.sampling.types import SamplingOptions
from .arguments import mask_first_bundle, mask_first_parser
from .gpu_proof import proof_requests
from .host_rate import host_rate

PARTS: dict[str, tuple[Any, str]] = {
    "mask solved": (mask_first, "solve_mask"),
    "brain drawn": (mask_first, "drawn_shares"),
    "draft painted": (mask_first, "painted"),
    "brain found": (mask_first, "brain_of"),
    "normals of the grain": (Batch, "normals_where"),
    "grain": (mask_first, "with_grain_inside"),
    "written values": (mask_first, "masked_volume"),
}
MEASURED = "measured"


def host_seconds(bundle: Bundle, count: int) -> dict[str, list[float]]:
    """Seconds of each part of each of the first volumes of a run, by the code of `generate` on a CPU."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            made = function(*arguments, **named)
            seconds[name].append(time.thread_time() - start)
            return made

        return call

    options = SamplingOptions.default(bundle.manifest.defaults)
    loop = HostLoop(model_of(bundle.manifest), OnnxRuntimeBackend(bundle, "cpu", 1).run, options)
    spacing = bundle.manifest.grid.spacing_mm
    measured = timed(MEASURED, lambda made: measure_tumour(made.label, spacing, np.any(made.image > 0, axis=0)))
    with ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            stack.enter_context(patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        for request in proof_requests(bundle, count):
            (volume,) = loop.start([request])()
            measured(volume)
    return dict(seconds)


def table(seconds: dict[str, list[float]]) -> str:
    """A line a part: milliseconds a volume, mean and least."""
    lines = [f"{'part':<22} {'mean ms':>8} {'least ms':>9}"]
    rows = {name: (1000 * float(np.mean(found)), 1000 * min(found)) for name, found in seconds.items()}
    rows["together"] = (sum(mean for mean, _ in rows.values()), sum(least for _, least in rows.values()))
    return "\n".join([*lines, *(f"{name:<22} {mean:8.1f} {least:9.1f}" for name, (mean, least) in rows.items())])


def main(arguments: list[str] | None = None) -> int:
    """Prints the table."""
    parser = mask_first_parser(__doc__, 3)
    parser.add_argument("--processes", type=int, nargs="+", metavar="P", help="tell the rate of so many processes")
    parser.add_argument("--batch", type=int, default=MOST_STAGED, help="samples of a batch; with --processes")
    parser.add_argument("--batches", type=int, help="that are timed; with --processes")
    given = parser.parse_args(arguments)
    bundle, _ = mask_first_bundle(parser, given.bundle)
    if given.processes is None:
        print(table(host_seconds(bundle, given.count)))
        return 0
    print(f"{'processes':>9} {'volumes/s':>10} {'own ms':>8} {'others ms':>10}")
    for processes in given.processes:
        rate = host_rate(bundle, processes, given.batch, given.batches or processes + 2)
        own, others = 1000 * rate.own_s, 1000 * rate.others_s
        print(f"{processes:9} {rate.volumes_s:10.2f} {own:8.1f} {others:10.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

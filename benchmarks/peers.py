"""A volume of the same weights by everybody's means, interleaved in one run on one machine.

python -m sbldm.benchmarks.peers --checkpoint DIR [--bundle phantom] [--steps 20] [--repeats 3] [--json FILE]

Each peer makes sample 0 in memory: noise, denoising, aggregator, decoding, refiner, assembly. PyTorch runs the networks
of the training directory DIR that the bundle was exported from, and its volume is held to ONNX Runtime's. The published
path is the authors' architecture at full width with random weights (its time does not depend on them): a few of its 50
denoiser calls are timed and multiplied, decoding is timed whole. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine.backends.choose import choose_backend
from ..engine.bundle.load import Bundle, load_bundle
from ..engine.errors import SbldmError
from ..engine.sampling.decoding import DECODER_SLICES
from ..engine.sampling.host import HostLoop
from ..engine.sampling.slices import SliceModel
from ..engine.sampling.types import RunComponent, SampleRequest, SamplingOptions
from ..export.components import components_of, random_inputs
from ..train.checkpoint import load_system
from ..train.config import slice_form
from ..train.trained import load_networks
from .machine import describe_machine
from .plan import default_backends
from .timing import Run, Timing, summarise, timed
from .torch_peers import PUBLISHED_STEPS, Scheduler, diffusers_latents, published_components, torch_peer

Images = NDArray[np.int16]


@dataclass(frozen=True)
class Peer:
    """Somebody's way to a volume."""

    name: str
    volume: Callable[[], Images]


def peers_of(bundle: Bundle, checkpoint: Path, steps: int) -> list[Peer]:
    """Everybody who can make a volume of this bundle here, ONNX Runtime first."""
    config = slice_form(load_system(checkpoint), str(checkpoint))
    components = components_of(config, load_networks(checkpoint, config))
    eager, bf16, compiled = (torch_peer(components, mode) for mode in ("eager", "bf16", "compile"))
    depth, model = bundle.manifest.grid.shape[2], SliceModel.of(bundle.manifest)
    request = SampleRequest(0, 0, np.zeros(model.condition_columns, np.float32))
    options = SamplingOptions(steps, "ddim", 0.0, 1.0, 0, 1)

    def ours(run: RunComponent, slices: int) -> Callable[[], Images]:
        loop = HostLoop(replace(model, at_once=slices), run, options)
        return lambda: loop.start([request])()[0].image

    def schedulers(kind: Scheduler) -> Callable[[], Images]:
        loop = HostLoop(replace(model, at_once=depth), eager.run, options)
        batch = loop.batch([request])

        def volume() -> Images:
            latents = diffusers_latents(eager.run, bundle.manifest, request.condition, kind, steps, 0)
            return loop.model.decode(eager.run, batch, loop.model.tell(eager.run, batch, None), latents)[0].image

        return volume

    engines = [choose_backend(bundle, name, "cpu") for name in default_backends("cpu")]
    return [
        *(Peer(f"{backend.name} {backend.precision}", ours(backend.run, DECODER_SLICES)) for backend in engines),
        Peer("PyTorch eager fp32, all slices in one decoder call", ours(eager.run, depth)),
        Peer("PyTorch eager fp32, a slice a decoder call", ours(eager.run, 1)),
        Peer("PyTorch bf16 autocast", ours(bf16.run, DECODER_SLICES)),
        Peer("torch.compile fp32", ours(compiled.run, DECODER_SLICES)),
        Peer("diffusers DDIM, eager fp32", schedulers("ddim")),
        Peer("diffusers DPM-Solver++(2M), eager fp32", schedulers("dpmpp-2m")),
    ]


class PublishedPath:
    """The authors' architecture, eager fp32: a few timed denoiser calls stand for all."""

    def __init__(self, bundle: Bundle, measured_steps: int) -> None:
        config, components = published_components(bundle.manifest)
        self._depth, self._components = config.grid.shape[2], components
        self._peer = torch_peer(components, "eager")
        self._steps = measured_steps
        self.calls: dict[str, list[Run]] = {"denoiser": [], "aggregator": [], "decoder": []}

    def run(self) -> None:
        """Time the denoiser `measured_steps` times, the aggregator and the decoding of all slices in one call once."""
        for component, batch, times in (
            ("denoiser", 1, self._steps),
            ("aggregator", 1, 1),
            ("decoder", self._depth, 1),
        ):
            made = random_inputs(self._components[component], batch, 0, self._depth)
            inputs = {name: value.numpy() for name, value in made.items()}
            self.calls[component] += [timed(partial(self._peer.run, component, inputs)) for _ in range(times)]

    def seconds(self) -> dict[str, float]:
        """Median seconds of a call of each component, and of a volume at the published number of steps."""
        medians = {name: summarise(runs).seconds for name, runs in self.calls.items()}
        volume = PUBLISHED_STEPS * medians["denoiser"] + medians["aggregator"] + medians["decoder"]
        return medians | {"volume": volume}


def compare(bundle: Bundle, peers: Sequence[Peer], published: PublishedPath | None, repeats: int) -> dict[str, Any]:
    """Time all peers by turns; figures as plain data."""
    _say("warm-up and fidelity")
    images = {peer.name: peer.volume() for peer in peers}
    runs: dict[str, list[Run]] = {peer.name: [] for peer in peers}
    for repeat in range(repeats):
        for peer in peers:
            _say(f"run {repeat + 1}/{repeats}: {peer.name}")
            runs[peer.name].append(timed(peer.volume))
        if published is not None:
            _say(f"run {repeat + 1}/{repeats}: published path")
            published.run()
    timings = {name: summarise(taken) for name, taken in runs.items()}
    first = images[peers[0].name]
    return {
        "bundle": bundle.manifest.id,
        "peers": [_row(name, timing, timings, images[name], first) for name, timing in timings.items()],
        "published": None if published is None else _published_row(published, timings),
    }


def _row(name: str, timing: Timing, all_timings: dict[str, Timing], images: Images, first: Images) -> dict[str, Any]:
    error = float(np.mean((images.astype(np.float64) - first) ** 2))
    engine = next(iter(all_timings.values()))
    return {
        "peer": name,
        "seconds": timing.seconds,
        "fastest": timing.fastest,
        "slowest": timing.slowest,
        "busy": timing.busy,
        "times_onnxruntime": timing.seconds / engine.seconds,
        "psnr_db": 10 * float(np.log10(1000.0**2 / error)) if error else None,
    }


def _published_row(published: PublishedPath, timings: dict[str, Timing]) -> dict[str, Any]:
    seconds = published.seconds()
    busy = all(run.busy for runs in published.calls.values() for run in runs)
    ratios = {name: seconds["volume"] / timing.seconds for name, timing in timings.items()}
    return {"steps": PUBLISHED_STEPS, "seconds": seconds, "busy": busy, "faster_than_it": ratios}


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["| peer | s a volume | spread | times ONNX Runtime | PSNR dB |", "| --- | --- | --- | --- | --- |"]
    for row in figures["peers"]:
        psnr = "identical" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        cells = [
            row["peer"],
            f"{row['seconds']:.2f}{'*' if row['busy'] else ''}",
            f"{row['fastest']:.2f}-{row['slowest']:.2f}",
            f"{row['times_onnxruntime']:.2f}",
            psnr,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    published = figures["published"]
    if published is not None:
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in published["seconds"].items())
        mark = " (machine was busy)" if published["busy"] else ""
        lines.append(f"\npublished path, {published['steps']} steps{mark}: {parts}")
        lines += [f"- {name}: {ratio:.1f} times faster" for name, ratio in published["faster_than_it"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code of the error where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="training directory of the bundle")
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--published-steps", type=int, default=3, help="denoiser calls to time; 0 leaves that path out")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    if given.steps < 1 or given.repeats < 1:
        parser.error("--steps and --repeats must be 1 or more")
    try:
        bundle = load_bundle(given.bundle)
        published = PublishedPath(bundle, given.published_steps) if given.published_steps > 0 else None
        figures = compare(bundle, peers_of(bundle, given.checkpoint, given.steps), published, given.repeats)
    except SbldmError as error:
        _say(f"error: {error}")
        return error.exit_code
    machine = describe_machine()
    figures |= {"cpu": machine.cpu, "threads": machine.threads, "steps": given.steps, "torch": torch.__version__}
    print(table(figures) + "\n")
    print(json.dumps(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures) + "\n", "utf-8")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""A volume of the same weights by everybody's means, interleaved in one run on one machine.

python -m sbldm.benchmarks.peers --checkpoint DIR [--bundle phantom] [--steps 20] [--repeats 3] [--json FILE]

Each peer makes sample 0 in memory by the bundle's own steps (with --steps: as many of DDIM), of either form. PyTorch
runs the networks of the training directory DIR that the bundle was exported from, and its volume is held to ours. Plain
ONNX Runtime has the plain graphs in sessions as they come. diffusers' schedulers take as many steps, of their kind.
The published path is the authors' architecture at full width with random weights (its time does not depend on them): a
few of its 50 denoiser calls are timed and multiplied, decoding is timed whole. The last line of stdout is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.backends.choose import choose_backend
from ..engine.bundle.load import Bundle, load_bundle
from ..engine.bundle.manifest import INT16_SCALE
from ..engine.errors import BackendUnavailableError, InvalidInputError, SbldmError
from ..engine.onnx_sessions import import_onnxruntime
from ..engine.processor import has_bf16
from ..engine.sampling.host import HostLoop
from ..engine.sampling.model import model_of
from ..engine.sampling.slices import SliceModel
from ..engine.sampling.types import Arrays, RunComponent, SamplingOptions, Volume
from ..export.bundle import form_of, system_networks
from ..export.components import Component, components_of, random_inputs
from ..train.checkpoint import load_system
from .gpu_proof import proof_requests
from .machine import describe_machine
from .plan import default_backends
from .quality import dice
from .timing import Run, Timing, summarise, timed
from .torch_peers import (
    PUBLISHED_STEPS,
    Scheduler,
    compiler_refusals,
    diffusers_latents,
    published_components,
    torch_peer,
)


@dataclass(frozen=True)
class Peer:
    """Somebody's way to a volume."""

    name: str
    volume: Callable[[], Volume]
    refusals: tuple[type[Exception], ...] = ()  # raised at the first volume where it does not run here


class Means:
    """Ways to sample 0 of a bundle."""

    def __init__(self, bundle: Bundle, options: SamplingOptions) -> None:
        self._bundle, self._options = bundle, options
        self._model = model_of(bundle.manifest)
        self._requests = proof_requests(bundle, 1)

    def loop(self, run: RunComponent, at_once: int | None = None) -> Callable[[], Volume]:
        """The engine's loop on somebody's networks; in the form of slices with `at_once` slices a decoder call."""
        model = self._model
        if at_once is not None and isinstance(model, SliceModel):
            model = replace(model, at_once=at_once)
        loop = HostLoop(model, run, self._options)
        return lambda: loop.start(self._requests)()[0]

    def scheduled(self, run: RunComponent, kind: Scheduler) -> Callable[[], Volume]:
        """The same around a scheduler of diffusers; a mask that is made first is made by the engine's sampler."""
        model, options = self._model, self._options
        batch = HostLoop(model, run, options).batch(self._requests)

        def volume() -> Volume:
            told = model.tell(run, batch, None)
            latents = diffusers_latents(run, self._bundle.manifest, told.feeds, kind, options.steps, options.seed)
            return model.decode(run, batch, told, latents)[0]

        return volume


def sampling_of(bundle: Bundle, steps: int | None) -> SamplingOptions:
    """The bundle's own steps, or so many of DDIM."""
    if steps is None:
        return SamplingOptions.default(bundle.manifest.defaults)
    return SamplingOptions(steps, "ddim", 0.0, 1.0, 0, 1)


def peers_of(bundle: Bundle, checkpoint: Path, options: SamplingOptions) -> list[Peer]:
    """Everybody who can make a volume of this bundle here, ONNX Runtime first.

    Raises:
        InvalidInputError: the checkpoint is none of this bundle's form.
    """
    components = _components(bundle, checkpoint)
    means, slices = Means(bundle, options), bundle.manifest.mask_first is None
    form = "slices" if slices else "mask-first"
    eager, bf16, compiled = (torch_peer(components, mode, form).run for mode in ("eager", "bf16", "compile"))
    engines = [choose_backend(bundle, name, "cpu") for name in default_backends("cpu")]
    depth = bundle.manifest.grid.shape[2]
    if slices:
        torch_peers = [
            Peer("PyTorch eager fp32, all slices in one decoder call", means.loop(eager, depth)),
            Peer("PyTorch eager fp32, a slice a decoder call", means.loop(eager, 1)),
        ]
    else:
        torch_peers = [Peer("PyTorch eager fp32", means.loop(eager))]
    return [
        *(Peer(f"{backend.name} {backend.precision}", means.loop(backend.run)) for backend in engines),
        Peer("plain ONNX Runtime fp32", means.loop(plain_onnxruntime(bundle))),
        *torch_peers,
        Peer("PyTorch bf16 autocast", where_multiplied(means.loop(bf16)), (BackendUnavailableError,)),
        Peer("torch.compile fp32", means.loop(compiled), compiler_refusals()),
        Peer("diffusers DDIM, eager fp32", means.scheduled(eager, "ddim")),
        Peer("diffusers DPM-Solver++(2M), eager fp32", means.scheduled(eager, "dpmpp-2m")),
    ]


def _components(bundle: Bundle, checkpoint: Path) -> dict[str, Component]:
    config = load_system(checkpoint)
    has, wanted = form_of(config), "slices" if bundle.manifest.mask_first is None else "mask-first"
    if has != wanted:
        raise InvalidInputError(
            f"{checkpoint}: is of the form {has}, the bundle {bundle.manifest.id} of the form {wanted}; "
            "give the training directory that it was exported from"
        )
    return components_of(config, system_networks(checkpoint, config))


def where_multiplied(volume: Callable[[], Volume]) -> Callable[[], Volume]:
    """`volume`, made in bfloat16; BackendUnavailableError where the processor would emulate it for minutes."""

    def refused() -> Volume:
        raise BackendUnavailableError("this processor has no bfloat16 arithmetic and would emulate it for minutes")

    return volume if has_bf16() else refused


def plain_onnxruntime(bundle: Bundle) -> RunComponent:
    """The graphs that every runtime gets, in ONNX Runtime's sessions with their defaults."""
    onnxruntime, sessions = import_onnxruntime(), {}

    def run(component: str, inputs: Arrays) -> Mapping[str, Any]:
        if component not in sessions:
            path = bundle.component_path(component)
            sessions[component] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in bundle.manifest.components[component].outputs]
        return dict(zip(names, sessions[component].run(names, dict(inputs)), strict=True))

    return run


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
    volumes, absent = _first_volumes(peers)
    here = [peer for peer in peers if peer.name in volumes]
    runs: dict[str, list[Run]] = {peer.name: [] for peer in here}
    for repeat in range(repeats):
        for peer in here:
            _say(f"run {repeat + 1}/{repeats}: {peer.name}")
            runs[peer.name].append(timed(peer.volume))
        if published is not None:
            _say(f"run {repeat + 1}/{repeats}: published path")
            published.run()
    timings = {name: summarise(taken) for name, taken in runs.items()}
    first = volumes[peers[0].name]
    return {
        "bundle": bundle.manifest.id,
        "peers": [_row(name, timing, timings, volumes[name], first) for name, timing in timings.items()],
        "absent": absent,
        "published": None if published is None else _published_row(published, timings),
    }


def _first_volumes(peers: Sequence[Peer]) -> tuple[dict[str, Volume], dict[str, str]]:
    """The volume of each peer that runs here; why each of the others does not."""
    volumes: dict[str, Volume] = {}
    absent: dict[str, str] = {}
    for peer in peers:
        _say(peer.name)
        try:
            volumes[peer.name] = peer.volume()
        except peer.refusals as error:
            absent[peer.name] = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return volumes, absent


def _row(name: str, timing: Timing, all_timings: dict[str, Timing], made: Volume, first: Volume) -> dict[str, Any]:
    error = float(np.mean((made.image.astype(np.float64) - first.image) ** 2))
    engine = next(iter(all_timings.values()))
    labels = range(1, 1 + int(first.label.max(initial=0)))
    return {
        "peer": name,
        "seconds": timing.seconds,
        "fastest": timing.fastest,
        "slowest": timing.slowest,
        "busy": timing.busy,
        "times_onnxruntime": timing.seconds / engine.seconds,
        "psnr_db": 10 * float(np.log10(INT16_SCALE**2 / error)) if error else None,
        "worst_dice": min((dice(made.label == k, first.label == k) for k in labels), default=1.0),
    }


def _published_row(published: PublishedPath, timings: dict[str, Timing]) -> dict[str, Any]:
    seconds = published.seconds()
    busy = all(run.busy for runs in published.calls.values() for run in runs)
    ratios = {name: seconds["volume"] / timing.seconds for name, timing in timings.items()}
    return {"steps": PUBLISHED_STEPS, "seconds": seconds, "busy": busy, "faster_than_it": ratios}


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    heads = ["peer", "s a volume", "spread", "times ONNX Runtime", "PSNR dB", "worst Dice"]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in figures["peers"]:
        psnr = "identical" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        cells = [
            row["peer"],
            f"{row['seconds']:.2f}{'*' if row['busy'] else ''}",
            f"{row['fastest']:.2f}-{row['slowest']:.2f}",
            f"{row['times_onnxruntime']:.2f}",
            psnr,
            f"{row['worst_dice']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"{name}: does not run here: {reason}" for name, reason in figures["absent"].items()]
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
    parser.add_argument("--steps", type=int, default=None, help="of DDIM; default: the bundle's own sampler and steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--published-steps", type=int, default=3, help="denoiser calls to time; 0 leaves that path out")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    if (given.steps is not None and given.steps < 1) or given.repeats < 1:
        parser.error("--steps and --repeats must be 1 or more")
    try:
        bundle = load_bundle(given.bundle)
        published = PublishedPath(bundle, given.published_steps) if given.published_steps > 0 else None
        options = sampling_of(bundle, given.steps)
        figures = compare(bundle, peers_of(bundle, given.checkpoint, options), published, given.repeats)
    except SbldmError as error:
        _say(f"error: {error}")
        return error.exit_code
    machine = describe_machine()
    figures |= {"cpu": machine.cpu, "threads": machine.threads, "torch": torch.__version__}
    figures |= {"sampler": options.sampler, "steps": options.steps}
    print(table(figures) + "\n")
    print(json.dumps(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures) + "\n", "utf-8")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The sampling loop's orchestration on the CPU: the same code, kernels behind the g++ shim, ONNX Runtime's networks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.engine.cuda.loop import MAX_GRAPHS, LoopBatch, SamplingLoop
from sbldm.engine.sampling.plan import SamplingPlan
from sbldm.kernels.ddim import ddim_step
from sbldm.kernels.dpmpp import dpmpp_2m_step
from sbldm.kernels.noise import DRAWS_PER_ATTEMPT, standard_normal

from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


def reference_latent(toy: Any, request: LoopBatch, steps: SamplingPlan, base_draw: int = 0) -> np.ndarray:
    """The same loop in NumPy with the reference steps."""
    draws = [base_draw + int(attempt) * DRAWS_PER_ATTEMPT for attempt in request.attempts]

    def noise(step: int) -> np.ndarray:
        rows = [
            standard_normal(request.seed, int(sample), draw + step, int(np.prod(toy.latent)))
            for sample, draw in zip(request.samples, draws, strict=True)
        ]
        return np.stack(rows).reshape(-1, *toy.latent)

    x, previous = noise(0), None
    for step, (timestep, c) in enumerate(zip(steps.timesteps, steps.coefficients, strict=True)):
        time = np.full(len(x), timestep, np.float32)

        def predict(mask: np.ndarray, x: np.ndarray = x, time: np.ndarray = time) -> np.ndarray:
            inputs = {"sample": x, "timestep": time, "condition": request.told["condition"], "condition_mask": mask}
            return toy.run("denoiser", **inputs)[0]

        conditional = predict(request.condition_mask)
        unconditional = None if steps.guidance is None else predict(np.zeros_like(request.condition_mask))
        if steps.sampler != "ddim":
            x, previous = dpmpp_2m_step(x, conditional, unconditional, steps.guidance, c, previous)
        else:
            x = ddim_step(x, conditional, unconditional, steps.guidance, c, noise(step + 1))
    return x


def sampled(
    toy: Any, kernel_folder: Path, use_graphs: bool, steps: SamplingPlan, *batches: LoopBatch
) -> tuple[list, list, list[str]]:
    """(latents, failure flags, what the device did) of batches through one loop."""
    device = HostDevice(kernel_folder)
    stream = device.stream()
    shape = toy.shape(batches[0].samples.size, steps.guidance is not None)
    loop = SamplingLoop(device, toy.components(device)["denoiser"], shape, use_graphs)
    latents, flags = [], []
    for request in batches:
        loop.sample(request, steps, stream)
        latent, failed = np.empty(loop.latent.shape, np.float32), np.empty(shape.samples, np.uint32)
        device.download(loop.latent, latent, stream)
        device.download(loop.failed, failed, stream)
        latents.append(latent)
        flags.append(failed)
    return latents, flags, device.log


@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_the_loop_computes_what_numpy_computes(
    toy: Any, kernel_folder: Path, sampler: str, guidance: float | None
) -> None:
    steps = toy.plan(sampler, guidance)
    requests = toy.batch(5), toy.batch(2**33)
    latents, flags, _ = sampled(toy, kernel_folder, True, steps, *requests)
    for request, latent, failed in zip(requests, latents, flags, strict=True):
        np.testing.assert_allclose(latent, reference_latent(toy, request, steps), atol=3e-5)
        assert not failed.any()


def test_the_loop_takes_fitted_steps_whose_last_sees_the_x0_before_it(toy: Any, kernel_folder: Path) -> None:
    solver = toy.plan("dpmpp-2m", None)
    *rows, last = solver.coefficients
    fitted = replace(solver, sampler="fitted", coefficients=(*rows, replace(last, from_previous_x0=-0.25)))
    request = toy.batch(5)
    ((latent,), _, _), (plain, _, _) = (sampled(toy, kernel_folder, True, plan, request) for plan in (fitted, solver))
    np.testing.assert_allclose(latent, reference_latent(toy, request, fitted), atol=3e-5)
    assert np.abs(latent - plain[0]).max() > 0.01


@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_graph_replays_give_the_bytes_of_plain_launches(
    toy: Any, kernel_folder: Path, sampler: str, guidance: float | None
) -> None:
    steps = toy.plan(sampler, guidance)
    requests = toy.batch(0), toy.batch(9), toy.batch(0)
    replayed, _, log = sampled(toy, kernel_folder, True, steps, *requests)
    launched, _, plain_log = sampled(toy, kernel_folder, False, steps, *requests)
    assert [latent.tobytes() for latent in replayed] == [latent.tobytes() for latent in launched]
    assert replayed[0].tobytes() == replayed[2].tobytes() != replayed[1].tobytes()
    assert (log.count("capture"), log.count("replay")) == (1, 3)
    assert "capture" not in plain_log
    assert "replay" not in plain_log


def test_a_stage_has_draws_of_its_own(toy: Any, kernel_folder: Path) -> None:
    """Of the initial noise and of each step; a graph is of one stage."""
    device, steps, request = HostDevice(kernel_folder), toy.plan("ddim", None, eta=1.0), toy.batch(5)
    stream, loop = device.stream(), SamplingLoop(device, toy.components(device)["denoiser"], toy.shape(2), True)
    for base_draw in (0, 2**31):
        loop.sample(request, steps, stream, base_draw)
        latent = np.empty(loop.latent.shape, np.float32)
        device.download(loop.latent, latent, stream)
        np.testing.assert_allclose(latent, reference_latent(toy, request, steps, base_draw), atol=3e-5)


def test_the_order_of_launches(toy: Any, kernel_folder: Path) -> None:
    _, _, log = sampled(toy, kernel_folder, False, toy.plan(), toy.batch(0))
    uploads = ["upload"] * 4
    assert log == [*uploads, "initial_latent", *["denoiser", "ddim_step"] * 3, "download", "download"]


def test_graphs_are_kept_by_steps_guidance_and_sampler(toy: Any, kernel_folder: Path) -> None:
    device = HostDevice(kernel_folder)
    stream = device.stream()
    loop = SamplingLoop(device, toy.components(device)["denoiser"], toy.shape(2, guided=True), True)
    plans = [toy.plan("ddim", 2.0), toy.plan("ddim", 3.0), toy.plan("dpmpp-2m", 2.0), toy.plan("ddim", 2.0, eta=0.0)]
    short = SamplingPlan("ddim", toy.timesteps[:2], plans[0].coefficients[:2], 2.0)
    for expected, steps in enumerate([*plans, short], start=1):
        for first in (0, 4):
            loop.sample(toy.batch(first), steps, stream)
            assert loop.graph_count == expected
    loop.sample(toy.batch(0), toy.plan("ddim", 2.0), stream)
    assert loop.graph_count == 5
    for guidance in np.linspace(4.0, 5.0, MAX_GRAPHS):
        loop.sample(toy.batch(0), toy.plan("ddim", float(guidance)), stream)
    assert loop.graph_count == MAX_GRAPHS


def test_a_sample_does_not_depend_on_its_neighbours(toy: Any, kernel_folder: Path) -> None:
    request = toy.batch(3)
    (both,), _, _ = sampled(toy, kernel_folder, True, toy.plan(), request)
    other = replace(request, samples=np.array([3, 77], np.uint64))
    (changed,), _, _ = sampled(toy, kernel_folder, True, toy.plan(), other)
    assert both[0].tobytes() == changed[0].tobytes()
    assert both[1].tobytes() != changed[1].tobytes()


def test_nan_marks_only_its_sample(toy: Any, kernel_folder: Path) -> None:
    request = toy.batch(0, 3)
    request.told["condition"][1, 0] = np.nan
    latents, flags, _ = sampled(toy, kernel_folder, True, toy.plan(), request, toy.batch(0, 3))
    assert [failed.tolist() for failed in flags] == [[0, 1, 0], [0, 0, 0]]
    assert np.isfinite(latents[0][[0, 2]]).all()
    assert latents[0][[0, 2]].tobytes() == latents[1][[0, 2]].tobytes()


def test_what_does_not_fit_the_loop_is_refused(toy: Any, kernel_folder: Path) -> None:
    device = HostDevice(kernel_folder)
    loop = SamplingLoop(device, toy.components(device)["denoiser"], toy.shape(2), True)
    with pytest.raises(ValueError, match=r"guidance 2\.0 does not fit"):
        loop.sample(toy.batch(0), toy.plan(guidance=2.0), device.stream())
    with pytest.raises(ValueError, match=r"takes 2 samples told {'condition': \(2, 2\)}, not 3 told"):
        loop.sample(toy.batch(0, 3), toy.plan(), device.stream())
    with pytest.raises(ValueError, match="one timestep and one row"):
        SamplingPlan("ddim", (1.0,), ())

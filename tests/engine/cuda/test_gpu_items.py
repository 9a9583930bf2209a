"""The acceptance test on the stand-in device and on CPU backends: what is right passes, each planted fault fails."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.benchmarks import gpu_check, gpu_items, gpu_rates, gpu_timing
from sbldm.benchmarks.gpu_check import Result, verdict
from sbldm.benchmarks.gpu_items import prove, providers
from sbldm.benchmarks.gpu_proof import (
    Failed,
    Reference,
    image_psnr,
    make_reference,
    proof_options,
    proof_requests,
    prove_components,
    prove_latents,
    prove_loop,
    prove_repeats,
    prove_volumes,
)
from sbldm.benchmarks.host_rate import HostRate
from sbldm.benchmarks.work import count_macs
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.checks import check_inputs
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.host import HostLoop
from sbldm.engine.sampling.model import model_of
from sbldm.engine.sampling.types import Volume
from scipy.ndimage import gaussian_filter

from tests.support.host_device import HostDevice

Plant = Callable[[list[Volume]], list[Volume]]
RANDOM = np.random.default_rng(0)


def images(change: Callable[[Any], Any]) -> Plant:
    return lambda made: [replace(volume, image=np.ascontiguousarray(change(volume.image))) for volume in made]


def labels(change: Callable[[Any], Any]) -> Plant:
    return lambda made: [replace(volume, label=change(volume.label)) for volume in made]


def brighter(image: Any) -> Any:
    return (image * np.array([1, 1, 1.05, 1])[:, None, None, None]).astype(np.int16)


FAULTS: dict[str, Plant] = {
    "random volumes": images(lambda image: RANDOM.integers(0, 1000, image.shape).astype(np.int16)),
    "swapped modalities": images(lambda image: image[[1, 0, 2, 3]]),
    "blank images": images(np.zeros_like),
    "mirrored images": images(lambda image: image[:, ::-1]),
    "a voxel off": images(lambda image: np.roll(image, 1, axis=1)),
    "a modality 3 % of the range too bright": images(
        lambda image: image + 30 * (image > 0) * np.array([0, 1, 0, 0], np.int16)[:, None, None, None]
    ),
    "empty labels": labels(np.zeros_like),
    "swapped tissues": labels(lambda label: np.array([0, 2, 1, 3], np.uint8)[label]),
    "a voxel off in the mask": labels(lambda label: np.roll(label, 1, axis=0)),
    "samples in another order": lambda made: made[::-1],
    "the first sample twice": lambda made: [replace(made[0], number=volume.number) for volume in made],
    "a fault": lambda made: [replace(made[0], fault="modality 0 is blank"), *made[1:]],
}


def brain(number: int) -> Volume:
    """A smooth brain with a tumour of three tissues, another for each number."""
    random, shape = np.random.default_rng(number), (32, 32, 16)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    radius = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    from_tumour = np.sqrt((x[:, None, None] - 0.2 * number) ** 2 + (y[:, None] + 0.2) ** 2 + z**2)
    label = np.select([from_tumour < 0.2, from_tumour < 0.35, from_tumour < 0.5], [1, 3, 2], 0).astype(np.uint8)
    texture = gaussian_filter(random.standard_normal((4, *shape)), (0, 1.5, 1.5, 1.5)) * 400
    contrast = np.array([[400, 300, 350, 500], [420, 200, 500, 800], [600, 900, 800, 700], [450, 700, 750, 850]])
    image = np.where(radius < 0.9, np.clip(contrast[:, label] + texture, 4, 1000), 0).astype(np.int16)
    return Volume(number, 0, image, label, None)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str) -> None:
    """In the coarsest precision, whose limits are the widest."""
    made = [brain(0), brain(1)]
    names = ("background", "ncr", "ed", "et")
    assert prove_volumes(made, [replace(volume) for volume in made], names, "bf16") == {"psnr_db": None, "dice": 1.0}
    with pytest.raises(Failed):
        prove_volumes(FAULTS[fault](made), made, names, "bf16")


def test_what_is_rounded_passes_where_a_brighter_modality_does_not() -> None:
    made, names = [brain(0), brain(1)], ("background", "ncr", "ed", "et")
    rounded = images(lambda image: np.where(image > 0, image + RANDOM.integers(-3, 4, image.shape), 0).astype(np.int16))
    assert prove_volumes(rounded(made), made, names, "fp16")["psnr_db"] > 45
    with pytest.raises(Failed, match="modality 2 has PSNR"):
        prove_volumes(images(brighter)(made), made, names, "fp16")
    with pytest.raises(Failed, match="PSNR"):
        prove_volumes(rounded(made), made, names, "fp32")


def test_latents_and_bytes_are_judged() -> None:
    latents = np.random.default_rng(1).standard_normal((2, 4, 3, 3)).astype(np.float32)
    assert prove_latents(latents + 1e-5, latents, "fp32")["latent_rms"] < 1e-4
    for wrong in (latents[::-1], latents * 1.01, np.where(latents > 2, np.nan, latents)):
        with pytest.raises(Failed, match="latents"):
            prove_latents(wrong, latents, "fp32")
    image, label = np.ones((1, 2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8)
    volume = Volume(0, 0, image, label, None)
    assert prove_repeats([("a", [volume]), ("b", [replace(volume)])])
    with pytest.raises(Failed, match="b gives other bytes than a"):
        prove_repeats([("a", [volume]), ("b", [replace(volume, image=image + 1)])])
    assert image_psnr(image[0], image[0]) == float("inf")


def reference_of(bundle: Bundle) -> Reference:
    """As `make_reference`, of random networks whose volumes it would refuse as no proof."""
    options = proof_options(bundle, steps=2)
    asked = GenerateRequest(bundle=bundle, count=1, steps=2, eta=options.eta).options()
    backend = OnnxRuntimeBackend(bundle, "cpu", 1)
    requests = proof_requests(bundle)
    loop: Any = open_loop(bundle, backend, asked, 2)
    batch = loop.batch(requests)
    told = loop.model.tell(loop.run, batch, None)
    latents = loop.denoise(batch, told, batch.noise(loop.model.latent_shape, 0), loop.plan)
    maps = None if bundle.manifest.mask_first is None else loop.model.maps(loop.run, batch, None)
    return Reference(requests, loop.model.decode(loop.run, batch, told, latents), latents, maps)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
@pytest.mark.parametrize("form", ["slices", "mask-first"])
def test_a_loop_on_the_device_is_proven_and_a_wrong_one_is_not(
    tiny_bundle: Bundle,
    tiny_mask_first_bundle: Bundle,
    kernel_folder: Path,
    host_backend: Any,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proof that a GPU gets: components, latents, volumes, the same bytes however they are made."""
    monkeypatch.setattr("sbldm.engine.run.ahead.available_threads", lambda: 2)
    bundle = tiny_bundle if form == "slices" else tiny_mask_first_bundle
    reference, options = reference_of(bundle), proof_options(bundle, steps=2)
    backend = host_backend(bundle, HostDevice(kernel_folder))
    figures = prove(bundle, backend, reference, options)
    assert figures["loop"] == "graph"
    assert figures["latent_rms"] < 1e-5
    assert figures["denoiser_rms"] < 1e-5
    beside = ["other processes"] if form == "mask-first" else []
    assert figures["equal_bytes"] == ["first", "second", "each alone", *beside, "plain launches"]
    monkeypatch.setattr("sbldm.engine.run.ahead.available_threads", lambda: 1)

    class Forgetful(HostDevice):
        """Replays all but the last launch of a graph."""

        def capture(self, stream: Any, work: Callable[[], None]) -> Any:
            return super().capture(stream, work)[:-1]

    with pytest.raises(Failed, match="plain launches gives other bytes than first") as failed:
        prove(bundle, host_backend(bundle, Forgetful(kernel_folder)), reference, options)
    assert "latents" in str(failed.value)
    assert failed.value.figures["latent_rms"] > 1e-3


@pytest.mark.parametrize("form", ["slices", "mask-first"])
def test_other_backends_of_the_cpu_pass_too(tiny_bundle: Bundle, tiny_mask_first_bundle: Bundle, form: str) -> None:
    pytest.importorskip("openvino")
    from sbldm.engine.backends.openvino import OpenVinoBackend

    bundle = tiny_bundle if form == "slices" else tiny_mask_first_bundle
    reference, options = reference_of(bundle), proof_options(bundle, steps=2)
    other = OpenVinoBackend(bundle, "fp32", 1)
    asked = GenerateRequest(bundle=bundle, count=1, steps=2, eta=options.eta).options()
    assert prove_components(bundle, other.run, "fp32")
    loop = open_loop(bundle, other, asked, 2)
    assert prove_loop(bundle, reference, loop, "tf32")["dice"] > 0.97
    broken = dict(reference.__dict__, requests=reference.requests[::-1])
    with pytest.raises(Failed):
        prove_loop(bundle, Reference(**broken), loop, "bf16")


def test_masks_of_a_rounding_mask_denoiser_are_not_proven(tiny_mask_first_bundle: Bundle) -> None:
    """Given masks hide it; the maps and the masks that are drawn do not, in any precision."""
    reference, options = reference_of(tiny_mask_first_bundle), proof_options(tiny_mask_first_bundle, steps=2)
    exact = OnnxRuntimeBackend(tiny_mask_first_bundle, "cpu", 1).run

    def run(component: str, inputs: Any) -> Any:
        made = exact(component, inputs)
        if component != "mask_denoiser":
            return made
        return {name: value + np.float32(0.01) * np.roll(value, 1, axis=-1) for name, value in made.items()}

    loop = HostLoop(model_of(tiny_mask_first_bundle.manifest), run, options)
    with pytest.raises(Failed, match="maps_rms: latents: RMS error") as failed:
        prove_loop(tiny_mask_first_bundle, reference, loop, "bf16")
    assert failed.value.figures["psnr_db"] is None
    assert failed.value.figures["dice"] == 1.0
    assert 1e-3 < failed.value.figures["maps_rms"] < 1e-1


def test_the_reference_must_show_something(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that draws nothing would agree with any other that draws nothing."""
    from sbldm.benchmarks import gpu_proof

    class Blank:
        def __init__(self, *_: Any) -> None:
            self.run = lambda name, inputs: {
                spec.name: np.zeros((len(next(iter(inputs.values()))), *map(int, spec.shape[1:])), np.float32)
                for spec in tiny_bundle.manifest.components[name].outputs
            }

    monkeypatch.setattr(gpu_proof, "OnnxRuntimeBackend", Blank)
    with pytest.raises(Failed, match="has no tumour"):
        make_reference(tiny_bundle, proof_options(tiny_bundle, steps=1))


def result(item: str, status: Any, decides: bool = True) -> Result:
    return Result(item, status, "", {}, 0.0, decides)


def test_passed_means_that_a_backend_was_proven_on_a_gpu() -> None:
    good = [result("kernels", "passed"), result("proof-onnxruntime-fp32", "passed")]
    assert verdict(good) == 0
    assert verdict([*good, result("proof-tensorrt-fp32", "skipped")]) == 0
    assert verdict([*good, result("proof-tensorrt-fp32", "failed")]) == 1
    assert verdict([*good, result("bandwidth", "failed", decides=False)]) == 1
    assert verdict([result("kernels", "passed"), result("proof-onnxruntime-fp32", "skipped")]) == 4
    assert verdict([]) == 4


def test_a_proof_for_which_no_time_is_left_is_a_failure(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_check.main(["--bundle", str(tiny_bundle.path), "--minutes", "0"]) == 1
    table = capsys.readouterr().out
    assert "no time was left" in table
    assert table.strip().endswith("FAILED")
    lines = {line.split()[0]: line.split()[1] for line in table.splitlines() if "no time" in line}
    assert lines["proof-onnxruntime-fp32"] == "failed"
    assert lines["loop-tensorrt-fp32"] == "skipped"


def test_the_profile_of_onnx_runtime_tells_where_nodes_ran(tiny_bundle: Bundle, tmp_path: Path) -> None:
    import onnxruntime
    from sbldm.engine.bundle.checks import check_inputs

    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "p")
    path = str(tiny_bundle.component_path("decoder"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, check_inputs(tiny_bundle.manifest.components["decoder"], 1))
    found = providers(Path(session.end_profiling()))
    assert list(found) == ["CPUExecutionProvider"]
    assert found["CPUExecutionProvider"] > 10


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
def test_the_share_of_the_matrix_rate_is_of_counted_operations(
    tiny_bundle: Bundle, kernel_folder: Path, host_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = HostDevice(kernel_folder)
    runs: list[str] = []

    def milliseconds(_stream: Any, work: Callable[[], None]) -> float:
        device.log.clear()
        work()
        runs.extend(device.log)
        return 2.0

    monkeypatch.setattr(gpu_items, "_gpu", lambda _options: device)
    monkeypatch.setattr(gpu_items, "_backend", lambda *_: host_backend(tiny_bundle, device))
    monkeypatch.setattr(gpu_items, "matrix_tflops", lambda *_: 1e-3)
    monkeypatch.setattr(gpu_rates, "milliseconds", milliseconds)
    monkeypatch.setattr(gpu_items, "DENOISER_BATCH", 3)
    options = gpu_items.Options(0, str(tiny_bundle.path), 1)
    figures = gpu_items.share_of_peak(options, "onnxruntime", "fp32")
    inputs = check_inputs(tiny_bundle.manifest.components["denoiser"], 3)
    macs = count_macs(tiny_bundle.component_path("denoiser"), inputs)
    assert macs is not None
    assert runs == ["denoiser"]
    assert figures["share"] == pytest.approx(2 * macs / 2.0 / 1e9 / 1e-3, abs=1e-3)
    assert figures["target_met"] == (figures["share"] >= 0.35)
    monkeypatch.setattr(gpu_rates, "count_macs", lambda *_: None)
    with pytest.raises(gpu_items.Skip, match="counted with onnx"):
        gpu_items.share_of_peak(options, "onnxruntime", "fp32")


@pytest.mark.parametrize("name", ["phantom", "glioma"])
def test_pytorch_is_timed_on_the_inputs_of_the_bundle(name: str) -> None:
    """With random weights, in either form, by the names that the graph has."""
    manifest = load_bundle(name).manifest
    denoiser = gpu_timing.torch_denoiser(manifest.preset)
    asked = set(inspect.signature(denoiser.forward).parameters)
    assert asked == {tensor.name for tensor in manifest.components["denoiser"].inputs}


def test_no_loop_is_opened_for_a_batch_that_is_not_timed(
    tiny_mask_first_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    class Loop:
        in_flight, kind = 1, "host"

    def loop(_bundle: Bundle, _backend: Any, settings: Any) -> Loop:
        opened.append(settings.batch_size)
        return Loop()

    monkeypatch.setattr(gpu_items, "_gpu", lambda _options: None)
    monkeypatch.setattr(gpu_items, "_backend", lambda *_: None)
    monkeypatch.setattr(gpu_items, "_loop", loop)
    monkeypatch.setattr(gpu_items, "wall_milliseconds", lambda _work: 4.0)
    options = gpu_items.Options(0, str(tiny_mask_first_bundle.path), 1)
    figures = gpu_items.loop_time(options, "onnxruntime", "fp32")
    assert opened == [1, 8]
    assert figures["batch_8_volumes_s"] == 2000.0


def test_compute_sanitizer_is_found_in_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    program = tmp_path / "site" / "nvidia" / "cu13" / "bin" / "compute-sanitizer"
    program.parent.mkdir(parents=True)
    program.touch()
    assert gpu_items.sanitizer_program() == str(program)
    program.unlink()
    assert gpu_items.sanitizer_program() is None


@pytest.mark.parametrize(
    ("script", "passes"),
    [
        ("echo 'gpu_check result: {\"figures\": {}}'", True),
        ('echo \'gpu_check result: {"skipped": "no GPU"}\'', False),
        ("echo 'gpu_check result: {\"figures\": {}}'; exit 9", False),
    ],
)
def test_what_compute_sanitizer_finds_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, passes: bool
) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(gpu_items, "_gpu", lambda _options: None)
    monkeypatch.setattr(gpu_items, "sanitizer_program", lambda: str(program))
    with nullcontext() if passes else pytest.raises(AssertionError, match="memcheck: gpu_check result"):
        assert gpu_items.sanitizer(gpu_items.Options(0, None, 1), "memcheck") == {"tool": "memcheck"}


def test_items_cover_every_backend_in_every_precision(tiny_bundle: Bundle) -> None:
    items = gpu_items.proofs(tiny_bundle)
    assert {f"proof-{name}-{p}" for name in ("onnxruntime", "tensorrt") for p in ("fp32", "tf32")} <= set(items)
    assert "to-disk-tensorrt" in gpu_items.measurements(tiny_bundle)
    assert "host" not in gpu_items.measurements(tiny_bundle)


def test_the_host_is_measured_alone_where_it_bounds_the_rate(
    tiny_mask_first_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def rate(_bundle: Bundle, processes: int, batch: int, batches: int) -> HostRate:
        asked.append((processes, batch, batches))
        return HostRate(20.0, 0.01, 0.5)

    monkeypatch.setattr(gpu_items, "most_processes", lambda _threads: 15)
    monkeypatch.setattr(gpu_items, "host_rate", rate)
    item = gpu_items.measurements(tiny_mask_first_bundle)["host"]
    figures = item(gpu_items.Options(0, str(tiny_mask_first_bundle.path), 1))
    assert asked == [(15, 8, 17)]
    assert figures == {"processes": 15, "batch": 8, "volumes_s": 20.0, "own_s": 0.01, "others_s": 0.5}

"""`CudaDevice`, `KernelLauncher` and the GPU items against a stand-in for the driver that runs kernels on the CPU.

It shows that the calls fit together, not that a GPU accepts them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from ctypes import memmove, memset
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sbldm.benchmarks import gpu_check, gpu_items, gpu_timing
from sbldm.benchmarks.gpu_proof import Failed
from sbldm.benchmarks.kernel_checks import check_ddim, check_words
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda import gpu as cuda_device
from sbldm.engine.cuda.device import GraphError
from sbldm.engine.cuda.gpu import CudaDevice
from sbldm.engine.errors import BackendUnavailableError, DeviceMemoryError
from sbldm.kernels import launcher
from sbldm.kernels.calls import THREADS, VolumeShape

from tests.support.cpu_launcher import CpuLauncher

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


class OutOfMemory(Exception):
    pass


class Event:
    def __init__(self, flags: int = 0) -> None:
        pass

    def record(self, stream: Any) -> Event:
        return self

    def synchronize(self) -> None:
        pass

    def time_since(self, other: Event) -> float:
        return 2.0


class Stream:
    """Records the kernels of a capture."""

    def __init__(self, flags: int = 0) -> None:
        assert flags == 1  # CU_STREAM_NON_BLOCKING
        self.recording: list[Callable[[], None]] | None = None
        self.handle = id(self)
        STREAMS[self.handle] = self

    def wait_for_event(self, event: Event) -> None:
        pass


STREAMS: dict[int, Stream] = {}
DESTROYED: list[Any] = []


class Memory:
    def __init__(self, size: int) -> None:
        if size > 2**30:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        self.values = np.empty(size, np.uint8)

    def __int__(self) -> int:
        return self.values.ctypes.data


def driver(kernels: CpuLauncher, capability: tuple[int, int]) -> SimpleNamespace:
    class Function:
        def __init__(self, entry: str) -> None:
            self.entry = entry
            self.formats: list[str] = []

        def prepare(self, formats: list[str]) -> None:
            self.formats = formats

        def prepared_async_call(self, grid: tuple, block: tuple, stream: Stream, parameters: bytes) -> None:
            assert block == (THREADS, 1, 1)
            assert self.formats == [f"{len(parameters)}s"]

            def work() -> None:
                kernels.launch(self.entry, grid, THREADS, parameters)

            work() if stream.recording is None else stream.recording.append(work)

    depth = []
    context = SimpleNamespace(push=lambda: depth.append(1), pop=depth.pop)
    gpu = SimpleNamespace(
        compute_capability=lambda: capability,
        name=lambda: "Stand-in",
        retain_primary_context=lambda: context,
    )

    class Device:
        count = staticmethod(lambda: 1)

        def __new__(cls, index: int) -> Any:
            return gpu

    return SimpleNamespace(
        depth=depth,
        Device=Device,
        Error=OutOfMemory,
        MemoryError=OutOfMemory,
        Event=Event,
        Stream=Stream,
        mem_alloc=Memory,
        mem_get_info=lambda: (2**20, 2**21),
        pagelocked_empty=np.empty,
        memcpy_htod_async=lambda to, values, stream: memmove(to, values.ctypes.data, values.nbytes),
        memcpy_dtoh_async=lambda values, address, stream: memmove(values.ctypes.data, address, values.nbytes),
        memcpy_dtod_async=lambda to, address, size, stream: memmove(to, address, size),
        memset_d8_async=lambda address, value, size, stream: memset(address, value, size),
        module_from_buffer=lambda code: SimpleNamespace(get_function=Function),
    )


def graphs(status: str = "CUDA_SUCCESS") -> SimpleNamespace:
    """cuda.bindings.driver's graph calls; `status` is that of cuStreamEndCapture."""
    names = ("CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "OTHER")
    results = SimpleNamespace(**{name: SimpleNamespace(name=name) for name in names})
    good = results.CUDA_SUCCESS

    def begin(handle: int, mode: object) -> tuple[Any]:
        STREAMS[handle].recording = []
        return (good,)

    def end(handle: int) -> tuple[Any, Any]:
        recorded, STREAMS[handle].recording = STREAMS[handle].recording, None
        return getattr(results, status), recorded

    def launch(graph: list[Callable[[], None]], handle: int) -> tuple[Any]:
        for work in graph:
            work()
        return (good,)

    return SimpleNamespace(
        CUresult=results,
        CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1),
        cuStreamBeginCapture=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiate=lambda graph, flags: (good, graph),
        cuGraphDestroy=lambda graph: (good,),
        cuGraphExecDestroy=lambda graph: DESTROYED.append(graph),
        cuGraphLaunch=launch,
    )


@pytest.fixture(scope="module")
def kernels(kernel_folder: Path) -> CpuLauncher:
    return CpuLauncher(kernel_folder)


def stand_in(
    monkeypatch: pytest.MonkeyPatch,
    kernels: CpuLauncher,
    capability: tuple[int, int] = (9, 0),
    status: str = "CUDA_SUCCESS",
) -> None:
    module = driver(kernels, capability)
    for where in (cuda_device, launcher, gpu_timing):
        monkeypatch.setattr(where, "cuda_driver", lambda: module)
    monkeypatch.setattr(cuda_device, "import_module", lambda name: graphs(status))
    monkeypatch.setattr(launcher, "cached_cubin", lambda source, architecture, cache: b"")


def test_kernels_run_through_the_device(monkeypatch: pytest.MonkeyPatch, kernels: CpuLauncher) -> None:
    stand_in(monkeypatch, kernels)
    device = CudaDevice()
    assert device.name == "Stand-in (sm_90)"
    check_words(device, 5)
    check_ddim(device, 63)


def test_capture_records_and_replay_runs(monkeypatch: pytest.MonkeyPatch, kernels: CpuLauncher) -> None:
    stand_in(monkeypatch, kernels)
    device = CudaDevice()
    stream = device.stream()
    values = device.allocate((8,), "float32")
    device.upload(values, np.full(8, 5.0, np.float32), stream)
    from sbldm.kernels.calls import clip_image_call

    graph = device.capture(stream, lambda: device.launch(clip_image_call(8, image=values.address), stream))
    out = device.pinned((8,), "float32")
    device.download(values, out, stream)
    np.testing.assert_array_equal(out, 5.0)
    device.replay(graph, stream)
    device.download(values, out, stream)
    np.testing.assert_array_equal(out, 1.0)
    DESTROYED.clear()
    del graph
    assert len(DESTROYED) == 1


def test_the_context_is_left_as_it_was_found(monkeypatch: pytest.MonkeyPatch, kernels: CpuLauncher) -> None:
    """PyCUDA aborts a process that ends with a context on its stack."""
    stand_in(monkeypatch, kernels)
    device = CudaDevice()
    depth = cuda_device.cuda_driver().depth
    assert not depth
    with device.current(), device.current():
        assert len(depth) == 2
    with pytest.raises(BackendUnavailableError), device.current():
        fail(BackendUnavailableError())
    assert not depth


def fail(error: Exception) -> None:
    raise error


def test_faults_are_told(monkeypatch: pytest.MonkeyPatch, kernels: CpuLauncher) -> None:
    stand_in(monkeypatch, kernels, status="OTHER")
    device = CudaDevice()
    with pytest.raises(GraphError, match="cuStreamEndCapture: OTHER"):
        device.capture(device.stream(), lambda: None)
    stand_in(monkeypatch, kernels, status="CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(DeviceMemoryError, match="cuStreamEndCapture found no memory"):
        CudaDevice().capture(device.stream(), lambda: None)
    stand_in(monkeypatch, kernels)
    for raised, told in ((BackendUnavailableError, GraphError), (DeviceMemoryError, DeviceMemoryError)):
        stream = device.stream()
        with pytest.raises(told, match="no such run"):
            CudaDevice().capture(stream, lambda raised=raised: fail(raised("no such run")))
        assert stream.recording is None
    with pytest.raises(DeviceMemoryError, match=r"no room for 4096 MiB \(1 of 2 MiB free\)"):
        device.allocate((2**30,), "float32")
    with pytest.raises(BackendUnavailableError, match="cuda:3 is not here; GPUs: 1"):
        CudaDevice(3)
    stand_in(monkeypatch, kernels, capability=(7, 5))
    with pytest.raises(BackendUnavailableError, match=r"compute capability 7\.5; the kernels need 8\.0"):
        CudaDevice()


def test_bandwidth_is_computed_from_bytes_and_time(monkeypatch: pytest.MonkeyPatch, kernels: CpuLauncher) -> None:
    stand_in(monkeypatch, kernels)
    monkeypatch.setattr(gpu_timing, "LATENTS", 2)
    monkeypatch.setattr(gpu_timing, "LATENT_SIZE", 64)
    monkeypatch.setattr(gpu_timing, "VOLUMES", 1)
    monkeypatch.setattr(gpu_timing, "VOLUME", VolumeShape(4, 4, (4, 4, 8)))
    device = CudaDevice()
    milliseconds, giga = 2.0, 1e6
    assert gpu_timing.bandwidth_of_copy(device) == pytest.approx(128 * 8 / milliseconds / giga)
    assert gpu_timing.bandwidth_of_ddim_step(device) == pytest.approx(128 * 16 / milliseconds / giga)
    assert gpu_timing.bandwidth_of_assemble(device) == pytest.approx(128 * 41 / milliseconds / giga)
    figures = gpu_items.bandwidth(gpu_items.Options(0, None, 1))
    assert figures["ddim_step_share"] == 2.0
    assert figures["target_met"]


def test_an_item_reports_figures_reasons_and_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_bundle: Bundle
) -> None:
    def skipped(options: gpu_items.Options) -> dict[str, Any]:
        raise gpu_items.Skip("no such thing here")

    def failed(options: gpu_items.Options) -> dict[str, Any]:
        raise Failed(["decoder.image: off"], {"decoder_rms": 0.5})

    bundle = ["--bundle", str(tiny_bundle.path)]
    items = {"good": lambda options: {"ms": 1.5}, "absent": skipped, "wrong": failed}
    monkeypatch.setattr(gpu_check, "proofs", lambda _bundle: items)
    monkeypatch.setattr(gpu_check, "measurements", lambda _bundle: {})
    said = {}
    for item in items:
        assert gpu_check.main(["--item", item, *bundle]) == 0
        said[item] = capsys.readouterr().out.strip()
    assert said["good"].endswith('{"figures": {"ms": 1.5}}')
    assert "no such thing here" in said["absent"]
    assert said["wrong"].endswith('{"failed": "decoder.image: off", "figures": {"decoder_rms": 0.5}}')

    outcomes = {
        "good": (0, 'gpu_check result: {"figures": {"gpu": "A", "ms": 1.5}}\n', ""),
        "absent": (0, 'noise\ngpu_check result: {"skipped": "not here"}\n', ""),
        "wrong": (0, said["wrong"], ""),
        "broken": (1, "", "Traceback\nAssertionError: off by one\n"),
        "crashed": (-11, "", ""),
    }
    monkeypatch.setattr(gpu_check, "proofs", lambda _bundle: outcomes)

    def run(command: list[str], **_: object) -> SimpleNamespace:
        code, out, told = outcomes[command[command.index("--item") + 1]]
        return SimpleNamespace(returncode=code, stdout=out, stderr=told)

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    target = tmp_path / "results.json"
    assert gpu_check.main(["--json", str(target), *bundle]) == 1
    table = capsys.readouterr().out
    assert "1 passed, 3 failed, 1 skipped\nFAILED" in table
    for words in ("off by one", "ended with -11", "decoder.image: off"):
        assert words in table
    report = json.loads(target.read_text())
    assert (report["gpu"], report["passed"]) == ("A", False)
    assert report["results"][2]["figures"] == {"decoder_rms": 0.5}
    assert report["results"][3]["log"] == "Traceback\nAssertionError: off by one"

    monkeypatch.setattr(gpu_check, "NEEDED", "good")
    assert gpu_check.main(["--json", str(target), "--items", "good", "--jobs", "2", *bundle]) == 0
    report = json.loads(target.read_text())
    assert [result["item"] for result in report["results"]] == ["good"]
    assert not report["passed"], "of a part that was chosen"
    with pytest.raises(SystemExit):
        gpu_check.main(["--items", "good,nonsense", *bundle])
    assert "no such item: nonsense; there are good, absent" in capsys.readouterr().err


def test_an_item_that_time_runs_out_for_keeps_what_it_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle: Bundle
) -> None:
    told = "from sbldm.benchmarks.gpu_items import tell, time; tell({'figures': {'batch_1_ms': 2.5}}); time.sleep(99)"
    monkeypatch.setattr(gpu_check, "_command", lambda *_: [sys.executable, "-c", told])
    monkeypatch.setattr(gpu_check, "proofs", lambda _bundle: {"loop": None})
    monkeypatch.setattr(gpu_check, "measurements", lambda _bundle: {})
    assert gpu_check.main(["--bundle", str(tiny_bundle.path), "--minutes", "0.1"]) == 1
    assert "no more time was left; batch_1_ms 2.5\n" in capsys.readouterr().out


def test_without_a_gpu_the_script_gets_to_the_end_and_has_proven_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    try:
        launcher.cuda_driver()
    except launcher.GpuUnavailableError as error:
        reason = str(error)
    else:
        pytest.skip("a GPU is here")
    monkeypatch.setattr(gpu_check, "proofs", lambda _bundle: {"kernels": None})
    monkeypatch.setattr(gpu_check, "measurements", lambda _bundle: {})
    target = tmp_path / "results.json"
    assert gpu_check.main(["--json", str(target), "--bundle", str(tiny_bundle.path)]) == 4
    (found,) = json.loads(target.read_text())["results"]
    assert (found["item"], found["status"], found["reason"]) == ("kernels", "skipped", reason)

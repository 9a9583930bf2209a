"""`bench --device cuda` through the real cuda-bindings and nvidia-ml-py, on stand-ins of the driver."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from sbldm.benchmarks import gpu_timing
from sbldm.benchmarks.device_calls import device_inputs
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import BackendUnavailableError

from tests.support.fake_cuda import run_on_fake_cuda
from tests.support.schemas import held_to

BENCH = """
import os, sys
from sbldm.benchmarks import bench, gpu_timing, machine, plan
from sbldm.benchmarks.energy import gpu_source
from sbldm.benchmarks.process import ProcessRun
from sbldm.cli.main import main
from sbldm.engine.cuda.device import Launching
from sbldm.engine.cuda.device_networks import OnnxRuntimeNetwork
from sbldm.engine.cuda.gpu import CudaDevice
from sbldm.engine.run import job
from tests.support.toy import HostLoopBackend, HostNetworks

class Networks(HostNetworks):
    def component(self, name):
        return OnnxRuntimeNetwork(self.backend.session(name), "cpu", launching=Launching("launches", "stand-in"))

for module in (plan, job):
    module.choose_backend = lambda bundle, *_, **__: HostLoopBackend(bundle, CudaDevice(), Networks)
machine.measure_fma_peak = lambda _: machine.FmaPeak(None, "test")
bench.run_measured = lambda _: ProcessRun(1.0, 2**30, 0.0, 0, "", "")
gpu_timing.WARM_UP, gpu_timing.REPEATS = 1, 2
options = "--device cuda --backends onnxruntime --steps 2 --samplers ddim --volumes 1 --repeats 1 --reference-steps 2"
code = main(["bench", "--bundle", sys.argv[1], *options.split(), "--threads", "1", "--json", "--quiet"])
os.environ["FAKE_NVML_OLD"] = "1"
print(gpu_source("cuda").how)
sys.exit(code)
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not here")
@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not here")
@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="PyCUDA is taken where it is here")
def test_components_are_timed_by_events_and_the_board_by_nvml(
    tiny_mask_first_bundle: Bundle, kernel_folder: Path
) -> None:
    """Every network of the mask-first form on the device's memory, whole runs to disk, a GPU that takes 100 W."""
    done = run_on_fake_cuda(kernel_folder, BENCH.replace("sys.argv[1]", repr(str(tiny_mask_first_bundle.path))))
    assert done.returncode == 0, done.stderr
    printed, old = done.stdout.splitlines()
    assert old == "not measurable here: Not Supported"
    result = held_to("bench", printed)
    machine = {name: result["machine"][name] for name in ("gpu", "gpu_memory_gib", "gpu_driver")}
    assert machine == {"gpu": "Fake GPU", "gpu_memory_gib": 1.0, "gpu_driver": "CUDA 13.0"}
    timed = {f["component"]: f["timing"]["seconds"] for f in result["components"] if f["clock"] == "device"}
    assert timed.keys() == tiny_mask_first_bundle.manifest.components.keys()
    assert all(0 < seconds < 1 for seconds in timed.values())
    assert result["energy"]["gpu"] == "NVML: the whole board"
    (point,) = result["points"]
    energy = point["energy"]["gpu"]
    assert 80 <= energy["watts"] <= 120
    assert energy["joules"] == pytest.approx(energy["watts"] * point["timing"]["seconds"])


def test_a_device_gets_the_rows_that_it_takes_at_once(tiny_mask_first_bundle: Bundle) -> None:
    features = tiny_mask_first_bundle.manifest.components["decoder"].inputs[0]
    recorded = {"features": np.zeros((4, *map(int, features.shape[1:])), np.float64)}
    (given,) = device_inputs(tiny_mask_first_bundle, "decoder", recorded, 1).values()
    assert (len(given), given.dtype) == (4, np.float32)
    assert len(device_inputs(tiny_mask_first_bundle, "aggregator", {"latent": np.zeros((2, 1))}, 1)["latent"]) == 1


def test_a_run_that_the_driver_says_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        class Error(RuntimeError):
            pass

        @staticmethod
        def Event() -> object:
            raise Driver.Error("an illegal address")

    monkeypatch.setattr(gpu_timing, "cuda_driver", Driver)
    with pytest.raises(BackendUnavailableError, match="failed while it was timed: an illegal address"):
        gpu_timing.milliseconds(None, lambda: None)

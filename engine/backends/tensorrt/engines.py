"""The TensorRT engines of a bundle for one device: from the cache where the full key matches, else built and proven."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.checks import RMS_LIMIT, check_faults, check_inputs, reference_elements
from ...bundle.load import Bundle, component_precision
from ...cuda.device import Buffer, Device
from ...cuda.device_networks import TensorRtNetwork
from ...errors import BackendUnavailableError, DeviceMemoryError
from ...files import write_atomic
from .build import DEFAULT_WORKSPACE, BuildRequest, Flavour, build_engine, check_target, make_runtime
from .cache import CachedEngine, EngineCache, EngineKey

NO_DRIVER = "none"
ANY_MODEL = "any"
CHECK_FIGURES = ("check_rms", "check_limit", "check_faults")


@dataclass(frozen=True)
class Target:
    """The device that engines are for."""

    compute_capability: str  # "89"
    cuda_driver: str  # as cuDriverGetVersion says it, e.g. "13000"
    present: bool  # the GPU of this machine, not another that is built for
    gpu_model: str = ANY_MODEL


def present_target(index: int = 0) -> Target:
    """The GPU `index` of this machine.

    Raises:
        BackendUnavailableError: no driver, no such GPU, or cuda-bindings is missing.
    """
    try:
        driver = import_module("cuda.bindings.driver")
    except ImportError as error:
        raise BackendUnavailableError('cuda-bindings is missing: pip install "sbldm-engine[gpu]"') from error

    def call(function: str, *arguments: Any) -> Any:
        try:
            status, *result = getattr(driver, function)(*arguments)
        except RuntimeError as error:
            raise BackendUnavailableError(f"no NVIDIA driver on this machine: {error}") from error
        if status != driver.CUresult.CUDA_SUCCESS:
            raise BackendUnavailableError(f"GPU {index}: {function} says {status.name}")
        return result[0] if result else None

    call("cuInit", 0)
    device = call("cuDeviceGet", index)
    attributes = driver.CUdevice_attribute
    major = call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    model = call("cuDeviceGetName", 256, device).split(b"\0")[0].decode()
    return Target(f"{major}{minor}", str(call("cuDriverGetVersion")), present=True, gpu_model=model)


def foreign_target(flavour: Flavour, compute_capability: str, cuda_driver: str | None) -> Target:
    """A device to cross-build for; without `cuda_driver` the engines fit machines that report none only.

    Raises:
        BackendUnavailableError: the flavour cannot build for it.
    """
    check_target(flavour, compute_capability)
    return Target(compute_capability, cuda_driver or NO_DRIVER, present=False)


class EngineSet:
    """Builds and opens the engines of one bundle for one target.

    Args:
        bundle: verified bundle.
        flavour: from `load_flavour`.
        target: from `present_target` or `foreign_target`.
        cache: where engines lie; the user's cache directory by default.
        workspace_bytes: scratch memory that the builder may plan with.
        precision: one of `Bundle.precisions`, or `tf32`.
        progress: told of each build before it starts.
    """

    def __init__(
        self,
        bundle: Bundle,
        flavour: Flavour,
        target: Target,
        cache: EngineCache | None = None,
        workspace_bytes: int = DEFAULT_WORKSPACE,
        progress: Callable[[str], None] = lambda _message: None,
        precision: str | None = None,
    ) -> None:
        self.bundle, self.flavour, self.target = bundle, flavour, target
        self.cache = cache or EngineCache()
        self.workspace_bytes, self.progress = workspace_bytes, progress
        self.precision = precision or bundle.manifest.precision

    def key(self, component: str, batch: int) -> EngineKey:
        """The full key of a component's engine; the bundle vouches for the hash of its graph."""
        for_model = not self.flavour.cross_builds  # TensorRT-RTX compiles for the model when the engine is loaded
        return EngineKey(
            component=component,
            onnx_sha256=self.bundle.component_sha256(component, self.precision),
            flavour=self.flavour.name,
            flavour_version=self.flavour.version,
            cuda_driver=self.target.cuda_driver,
            gpu_model=self.target.gpu_model if for_model else ANY_MODEL,
            compute_capability=self.target.compute_capability,
            hardware_compatibility="none",
            precision=self._precision_of(component),
            tf32="on" if self._tf32(component) else "off",
            workspace_mb=str(self.workspace_bytes >> 20),
            batch=str(batch),
        )

    def prepare(self, component: str, batch: int, rebuild: bool = False) -> CachedEngine:
        """The component's engine, built under a lock where it is not cached; errors of `build_engine`."""

        def build() -> tuple[bytes, dict[str, Any]]:
            self.progress(f"building {component} for SM {self.target.compute_capability}, batch {batch}")
            timing = self._timing_path()
            known = timing.read_bytes() if timing.is_file() else b""
            blob, figures = build_engine(self.flavour, self._request(component, batch), known)
            measured = figures.pop("timing_cache", b"")
            if measured:
                with suppress(OSError):  # only costs time at the next build
                    write_atomic(timing, measured)
            return blob, figures

        return self.cache.get_or_build(self.key(component, batch), build, rebuild)

    def open(self, component: str, batch: int, device: Device) -> tuple[TensorRtNetwork, dict[str, Any]]:
        """The component's engine as a network on this machine's GPU, which is current, and the figures of its sidecar.

        An engine is proven before its first use: its outputs for `check_inputs` are compared with the bundle's. What
        came of it stands in the figures of its sidecar.

        Raises:
            BackendUnavailableError: TensorRT refuses the engine (its own words), or it gives wrong results.
            DeviceMemoryError: there is no memory for it.
        """
        engine = self.prepare(component, batch)
        runtime, problems = make_runtime(self.flavour)
        loaded = runtime.deserialize_cuda_engine(engine.blob)
        if loaded is None:
            raise BackendUnavailableError(
                f"{engine.path}: {self.flavour.name} cannot load it; build it again with "
                "`sbldm-engine build --rebuild`\n  " + "\n  ".join(problems[-3:])
            )
        compiled = self._compiled_path(engine.path)
        context, memory, keep = _context(self.flavour, loaded, device, compiled)
        if context is None:
            raise DeviceMemoryError(
                f"{component}: no GPU memory for its execution context; lower the batch size\n  "
                + "\n  ".join(problems[-3:])
            )
        network = TensorRtNetwork(context, problems, memory)
        figures = engine.figures | self._check(component, batch, engine, network, device)
        keep()
        return network, figures

    def _check(
        self, component: str, batch: int, engine: CachedEngine, network: TensorRtNetwork, device: Device
    ) -> dict[str, Any]:
        """What came of the check of an engine, which is made once."""
        figures: dict[str, Any] = {name: engine.figures[name] for name in CHECK_FIGURES if name in engine.figures}
        if len(figures) < len(CHECK_FIGURES):
            expected = reference_elements(self.bundle, component)
            made = _run_once(self.bundle, component, batch, network, device)
            limit = RMS_LIMIT[self._precision_of(component)]
            worst, faults = check_faults(made, expected, limit)
            figures = dict(zip(CHECK_FIGURES, (worst, limit, faults), strict=True))
            self.cache.update_figures(self.key(component, batch), figures)
        if figures["check_faults"]:
            raise BackendUnavailableError(
                f"{engine.path}: computes {component} wrongly on this GPU in {self._precision_of(component)}: "
                f"{'; '.join(figures['check_faults'])}. Take another --precision or --backend onnxruntime, or try "
                "`sbldm-engine build --rebuild`"
            )
        return figures

    def _precision_of(self, component: str) -> str:
        return component_precision(component, self.precision)

    def _tf32(self, component: str) -> bool:
        return self._precision_of(component) == "tf32"

    def _request(self, component: str, batch: int) -> BuildRequest:
        capability = None if self.target.present else self.target.compute_capability
        path = self.bundle.component_path(component, self.precision)
        return BuildRequest(path, batch, capability, self.workspace_bytes, self._tf32(component))

    def _timing_path(self) -> Path:
        target = self.target
        name = f"timing-{self.flavour.name}-{self.flavour.version}-{target.compute_capability}-{target.cuda_driver}.bin"
        return self.cache.root / name

    def _compiled_path(self, engine: Path) -> Path:
        """Where TensorRT-RTX keeps what it compiled of an engine for this model of GPU."""
        model = "".join(letter if letter.isalnum() else "-" for letter in self.target.gpu_model)
        return engine.with_name(f"{engine.stem}-{model}.compiled")


def _context(
    flavour: Flavour, loaded: Any, device: Device, compiled: Path
) -> tuple[Any, Buffer | None, Callable[[], None]]:
    """An execution context, the memory of ours that it works in, and what keeps its compiled kernels for next time."""
    if not flavour.cross_builds:
        return loaded.create_execution_context(), None, lambda: None
    api: Any = flavour.api
    config = loaded.create_runtime_config()
    config.set_execution_context_allocation_strategy(api.ExecutionContextAllocationStrategy.USER_MANAGED)
    # a kernel that is replaced in the midst of a run changes its bytes
    config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
    config.cuda_graph_strategy = api.CudaGraphStrategy.DISABLED  # the loop is captured whole
    kernels = config.create_runtime_cache()
    with suppress(OSError):
        kernels.deserialize(compiled.read_bytes())  # of another version or driver: refused, and compiled again
    config.set_runtime_cache(kernels)
    context = loaded.create_execution_context(config)
    if context is None:
        return None, None, lambda: None
    size = int(loaded.device_memory_size_v2)
    memory = device.allocate((max(1, size),), "uint8")
    context.set_device_memory(memory.address, size)

    def keep() -> None:
        found = kernels.serialize()
        if found is not None:
            with suppress(OSError):  # only costs time at the next start
                write_atomic(compiled, bytes(found))

    return context, memory, keep


def _run_once(
    bundle: Bundle, component: str, batch: int, network: TensorRtNetwork, device: Device
) -> dict[str, NDArray[np.float32]]:
    """A network's outputs for `check_inputs`."""
    spec = bundle.manifest.components[component]
    stream = device.stream()
    arrays = check_inputs(spec, batch)
    inputs = {name: device.allocate(values.shape, values.dtype.name) for name, values in arrays.items()}
    outputs = {
        tensor.name: device.allocate((batch, *(int(n) for n in tensor.shape[1:])), tensor.dtype)
        for tensor in spec.outputs
    }
    pinned = {name: device.pinned(buffer.shape, buffer.dtype) for name, buffer in {**inputs, **outputs}.items()}
    for name, buffer in inputs.items():
        pinned[name][:] = arrays[name]
        device.upload(buffer, pinned[name], stream)
    network.enqueue(inputs, outputs, stream)
    for name, buffer in outputs.items():
        device.download(buffer, pinned[name], stream)
    device.synchronize(device.record(stream))
    return {name: pinned[name] for name in outputs}

"""The TensorRT engines of a bundle for one device: taken from the cache where the full key matches, else built."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...bundle.load import Bundle
from ...errors import BackendUnavailableError, DeviceMemoryError
from ...files import write_atomic
from .build import DEFAULT_WORKSPACE, BuildRequest, Flavour, build_engine, check_target, make_runtime
from .cache import BatchProfile, CachedEngine, EngineCache, EngineKey

SLICE_COMPONENTS = frozenset({"encoder", "decoder"})  # axis 0 counts slices or slabs, not volumes
DENOISERS = frozenset({"denoiser", "mask_denoiser"})
NO_DRIVER = "none"


@dataclass(frozen=True)
class Target:
    """The device that engines are for."""

    compute_capability: str  # "89"
    cuda_driver: str  # as cuDriverGetVersion says it, e.g. "13000"
    present: bool  # the GPU of this machine, not another that is built for


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
    return Target(f"{major}{minor}", str(call("cuDriverGetVersion")), present=True)


def foreign_target(flavour: Flavour, compute_capability: str, cuda_driver: str | None) -> Target:
    """A device to cross-build for; without `cuda_driver` the engines fit machines that report none only.

    Raises:
        BackendUnavailableError: the flavour cannot build for it.
    """
    check_target(flavour, compute_capability)
    return Target(compute_capability, cuda_driver or NO_DRIVER, present=False)


def profile_of(component: str, rows: int, slices: int) -> BatchProfile:
    """From one up to a denoiser's rows, the slices of encoder and decoder, one volume of others; for the largest."""
    largest = rows if component in DENOISERS else slices if component in SLICE_COMPONENTS else 1
    return BatchProfile(1, largest, largest)


@dataclass(frozen=True)
class OpenEngine:
    """An engine ready to run, and where its runtime's logger puts error messages."""

    context: Any
    problems: list[str]


class EngineSet:
    """Builds and opens the engines of one bundle for one target.

    Args:
        bundle: verified bundle.
        flavour: from `load_flavour`.
        target: from `present_target` or `foreign_target`.
        cache: where engines lie; the user's cache directory by default.
        workspace_bytes: scratch memory that the builder may plan with.
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
    ) -> None:
        self.bundle, self.flavour, self.target = bundle, flavour, target
        self.cache = cache or EngineCache()
        self.workspace_bytes, self.progress = workspace_bytes, progress

    def key(self, component: str, profile: BatchProfile) -> EngineKey:
        """The full key of a component's engine; the bundle vouches for the hash of its graph."""
        manifest = self.bundle.manifest
        return EngineKey(
            component=component,
            onnx_sha256=manifest.files[manifest.components[component].file].sha256,
            flavour=self.flavour.name,
            flavour_version=self.flavour.version,
            cuda_driver=self.target.cuda_driver,
            compute_capability=self.target.compute_capability,
            precision=manifest.precision,
            batch_profile=str(profile),
        )

    def prepare(self, component: str, profile: BatchProfile, rebuild: bool = False) -> CachedEngine:
        """The component's engine, built under a lock where it is not cached; errors of `build_engine`."""

        def build() -> tuple[bytes, dict[str, Any]]:
            self.progress(f"building {component} for SM {self.target.compute_capability}, batch {profile}")
            timing = self._timing_path()
            known = timing.read_bytes() if timing.is_file() else b""
            blob, figures = build_engine(self.flavour, self._request(component, profile), known)
            measured = figures.pop("timing_cache", b"")
            if measured:
                with suppress(OSError):  # only costs time at the next build
                    write_atomic(timing, measured)
            return blob, figures

        return self.cache.get_or_build(self.key(component, profile), build, rebuild)

    def open(self, component: str, profile: BatchProfile) -> OpenEngine:
        """The component's engine with an execution context on this machine's GPU.

        Raises:
            BackendUnavailableError: TensorRT refuses the engine (its own words).
            DeviceMemoryError: it has no memory for it.
        """
        engine = self.prepare(component, profile)
        runtime, problems = make_runtime(self.flavour)
        loaded = runtime.deserialize_cuda_engine(engine.blob)
        if loaded is None:
            raise BackendUnavailableError(
                f"{engine.path}: {self.flavour.name} cannot load it; build it again with "
                "`sbldm-engine build --rebuild`\n  " + "\n  ".join(problems[-3:])
            )
        context = loaded.create_execution_context()
        if context is None:
            raise DeviceMemoryError(
                f"{component}: no GPU memory for its execution context; lower the batch size\n  "
                + "\n  ".join(problems[-3:])
            )
        return OpenEngine(context, problems)

    def _request(self, component: str, profile: BatchProfile) -> BuildRequest:
        capability = None if self.target.present else self.target.compute_capability
        return BuildRequest(self.bundle.component_path(component), profile, capability, self.workspace_bytes)

    def _timing_path(self) -> Path:
        target = self.target
        name = f"timing-{self.flavour.name}-{self.flavour.version}-{target.compute_capability}-{target.cuda_driver}.bin"
        return self.cache.root / name

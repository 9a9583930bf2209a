"""ONNX -> serialised TensorRT engine, one code for `tensorrt` >= 10 and `tensorrt_rtx`; the latter needs no GPU."""

from __future__ import annotations

import importlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...bundle.onnx_scan import check_onnx_file
from ...errors import BackendUnavailableError, DeviceMemoryError

if TYPE_CHECKING:
    import tensorrt as trt

FLAVOURS = ("tensorrt", "tensorrt_rtx")
RTX_CAPABILITIES = ("75", "80", "86", "89", "120", "121")
DEFAULT_WORKSPACE = 4 << 30
MEMORY_WORDS = re.compile(
    r"out ?of ?memory|cudaError 2\b|memory allocation|insufficient (device )?memory|workspace", re.I
)


class Api(Protocol):
    """What both flavours offer under the same names."""

    __version__: str
    Builder: type[trt.Builder]
    BuilderFlag: type[trt.BuilderFlag]
    ILogger: type[trt.ILogger]
    MemoryPoolType: type[trt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
    OnnxParser: type[trt.OnnxParser]
    Runtime: type[trt.Runtime]
    TensorIOMode: type[trt.TensorIOMode]

    def nptype(self, trt_type: trt.DataType) -> type: ...


@dataclass(frozen=True)
class Flavour:
    """An installed TensorRT: its import name, version and module."""

    name: str
    version: str
    api: Api

    @property
    def cross_builds(self) -> bool:
        """Whether engines for other compute capabilities can be built, also without a GPU."""
        return self.name == "tensorrt_rtx"


@dataclass(frozen=True)
class BuildRequest:
    """What to build: a graph, the size of its batch axis, and for which device."""

    onnx: Path
    batch: int
    compute_capability: str | None = None  # "89"; None: the GPU of this machine
    workspace_bytes: int = DEFAULT_WORKSPACE
    tf32: bool = False  # products of fp32 tensors in TF32


def load_flavour(name: str | None = None) -> Flavour:
    """The flavour called `name`, or the first that is installed (`tensorrt` before `tensorrt_rtx`).

    Raises:
        BackendUnavailableError: none is installed or usable; says what to install.
    """
    faults: list[str] = []
    for candidate in (name,) if name else FLAVOURS:
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError) as error:
            faults.append(f"{candidate}: {error}")
            continue
        if hasattr(module, "Builder"):  # type stubs alone leave an empty package of this name
            return Flavour(candidate, str(module.__version__), cast("Api", module))
        faults.append(f"{candidate}: only type stubs are installed")
    raise BackendUnavailableError(
        'no TensorRT builder: pip install "sbldm-engine[tensorrt]" (datacentre GPUs; wheels of NVIDIA\'s own '
        'index) or "sbldm-engine[tensorrt-rtx]" (GeForce and RTX, also builds without a GPU)\n  ' + "\n  ".join(faults)
    )


def normalise_capability(text: str) -> str:
    """`8.9`, `sm_89`, `89` -> `89`.

    Raises:
        BackendUnavailableError: not a compute capability.
    """
    digits = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())
    if digits is None:
        raise BackendUnavailableError(f"compute capability {text!r}: write it like 89 or 8.9")
    return digits[1] + digits[2]


def check_target(flavour: Flavour, capability: str | None) -> None:
    """Refuse what the flavour cannot build for, before any work.

    Raises:
        BackendUnavailableError: `capability` is given to a flavour that builds for the present GPU only, or is
            none that TensorRT-RTX knows (Hopper is not).
    """
    if capability is None:
        return
    if not flavour.cross_builds:
        raise BackendUnavailableError(
            f"{flavour.name} builds for the GPU of this machine only; leave the compute capability out, "
            "or use --flavour tensorrt_rtx"
        )
    if capability not in RTX_CAPABILITIES:
        allowed = ", ".join(RTX_CAPABILITIES)
        raise BackendUnavailableError(
            f"TensorRT-RTX builds no engines for compute capability {capability} (allowed: {allowed}); "
            "datacentre Hopper and Blackwell need the flavour tensorrt on that GPU"
        )


def build_engine(flavour: Flavour, request: BuildRequest, timing_cache: bytes = b"") -> tuple[bytes, dict[str, Any]]:
    """Parse and build one component.

    Args:
        flavour: from `load_flavour`.
        request: graph, batch size, device, workspace limit, TF32.
        timing_cache: tactics measured by earlier builds of the same flavour and device (ignored by TensorRT-RTX).

    Returns:
        The serialised engine and figures: `build_seconds`, `engine_bytes`, `layers`, and `timing_cache` (bytes)
        where the flavour has one.

    Raises:
        BackendUnavailableError: the parser does not support the graph (names the node), or the builder failed (its
            own words).
        DeviceMemoryError: the builder ran out of memory (says what to lower).
        InvalidInputError: the file is no sound ONNX file, or refers to data outside its folder.
    """
    check_target(flavour, request.compute_capability)
    check_onnx_file(request.onnx)
    started = time.perf_counter()
    logger = _make_logger(flavour.api)
    builder = flavour.api.Builder(logger)
    network, parser = _parse(flavour, builder, logger, request.onnx)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(flavour.api.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    config.add_optimization_profile(_profile(builder, network, request.batch))
    flags = flavour.api.BuilderFlag
    config.set_flag(flags.TF32) if request.tf32 else config.clear_flag(flags.TF32)  # it is on by default
    if flavour.cross_builds:
        config.set_flag(cast("Any", flags).REQUIRE_USER_ALLOCATION)  # without it no run can be captured
    if request.compute_capability is not None:
        _set_capability(flavour, config, request.compute_capability)
    if not flavour.cross_builds:  # timing caches do nothing in TensorRT-RTX, which compiles on the device
        config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise _build_failure(flavour, request, logger.problems)
    blob = bytes(plan)  # pyright: ignore[reportArgumentType]  # IHostMemory has the buffer protocol
    figures: dict[str, Any] = {
        "build_seconds": round(time.perf_counter() - started, 3),
        "engine_bytes": len(blob),
        "layers": network.num_layers,
    }
    if not flavour.cross_builds:
        figures["timing_cache"] = bytes(config.get_timing_cache().serialize())  # pyright: ignore[reportArgumentType]
    return blob, figures


def _make_logger(api: Api) -> Any:
    """A TensorRT logger that keeps the messages of severity error instead of printing them."""

    class Collector(api.ILogger):  # pyright: ignore[reportUntypedBaseClass, reportGeneralTypeIssues]
        def __init__(self) -> None:
            super().__init__()
            self.problems: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR):
                self.problems.append(msg)

    return Collector()


def make_runtime(flavour: Flavour) -> tuple[trt.Runtime, list[str]]:
    """A runtime and the list that collects its error messages."""
    logger = _make_logger(flavour.api)
    return flavour.api.Runtime(logger), logger.problems


def _parse(
    flavour: Flavour, builder: trt.Builder, logger: Any, onnx: Path
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    """The network and its parser, which owns the weights and must live until the engine is built."""
    api = flavour.api
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        reasons = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BackendUnavailableError(
            f"{onnx}: {flavour.name} {flavour.version} does not support this graph\n  " + "\n  ".join(reasons)
        )
    return network, parser


def _parser_error(error: trt.ParserError) -> str:
    return f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _profile(builder: trt.Builder, network: trt.INetworkDefinition, batch: int) -> trt.IOptimizationProfile:
    """One shape: the loop's never change, and kernels for one are faster than kernels for a range."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = (batch, *tuple(cast("Any", tensor.shape))[1:])
        profile.set_shape(tensor.name, *cast("Any", (shape, shape, shape)))
    return profile


def _set_capability(flavour: Flavour, config: Any, capability: str) -> None:
    capabilities = cast("Any", flavour.api).ComputeCapability
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(capabilities, f"SM{capability}"), 0)


def _build_failure(flavour: Flavour, request: BuildRequest, problems: list[str]) -> BackendUnavailableError:
    said = "\n  ".join(problems[-5:]) or "the builder gave no reason"
    name = f"{request.onnx.name} at batch {request.batch}"
    if any(MEMORY_WORDS.search(problem) for problem in problems):
        return DeviceMemoryError(
            f"building {name} ran out of memory (workspace limit {request.workspace_bytes >> 20} MiB): lower --batch, "
            f"end what else runs on the GPU, or raise --workspace-mb if the limit is the cause\n  {said}"
        )
    if any("cudaError 35" in problem or "no CUDA-capable device" in problem for problem in problems):
        return BackendUnavailableError(
            f"building {name} needs a GPU with its driver; without name a target: --compute-capability 89\n  {said}"
        )
    return BackendUnavailableError(f"{flavour.name} {flavour.version} could not build {name}\n  {said}")

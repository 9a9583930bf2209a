"""ONNX Runtime sessions on an NVIDIA GPU: every node there or none, shapes fixed, nothing that a clock decides."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BackendUnavailableError
from .onnx_sessions import import_onnxruntime, load_errors, session_options

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CUDAExecutionProvider"
BATCH_AXIS = "batch"  # how graphs call it
NO_FALLBACK = "session.disable_cpu_ep_fallback"
_FELL_BACK = "fallback to CPU EP has been explicitly disabled"  # ONNX Runtime's words
_FATAL = 4  # a severity of ONNX Runtime's log
_FREEZING_PASSES = 2  # the first writes functions such as GroupNormalization out, the second computes their shapes


def require_cuda(device: str) -> None:
    """BackendUnavailableError where ONNX Runtime is not here or was built without CUDA."""
    if PROVIDER not in import_onnxruntime().get_available_providers():
        raise BackendUnavailableError(
            f"--device {device}: this onnxruntime has no CUDA provider; pip uninstall onnxruntime, then "
            'pip install "sbldm-engine[gpu]" on a machine with an NVIDIA GPU'
        )


def open_cuda_session(
    path: Path,
    index: int,
    rows: int,
    precision: str,
    stream_handle: int | None = None,
    *,
    replays: bool = False,
    profile: str | None = None,
) -> onnxruntime.InferenceSession:
    """A session of a graph on GPU `index` for batches of `rows` rows.

    Args:
        path: the graph.
        index: of the GPU.
        rows: of its batch axis; with it every shape is known, so that no node is left that computes shapes on the host.
        precision: `fp32`, `tf32`, or that of a graph in 16 bits.
        stream_handle: of a CUstream that its work goes to; None: one of its own.
        replays: ONNX Runtime captures each run as a CUDA graph and replays it (`OnnxRuntimeNetwork`).
        profile: how the file that it writes its profile to begins.

    Raises:
        InvalidInputError: the graph cannot be loaded.
        BackendUnavailableError: CUDA is missing, or a node would run on the CPU.
        DeviceMemoryError: there is no memory for it.
    """
    require_cuda(f"cuda:{index}")
    onnxruntime = import_onnxruntime()
    onnxruntime.set_default_logger_severity(_FATAL)  # it tells each plan that cuDNN has not; what fails is raised
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the session says what it lacks
        onnxruntime.preload_dlls()
    with load_errors(path):
        graph = frozen_graph(path, rows) if precision in ("fp32", "tf32") else str(path)
    provider = cuda_options(index, tf32=precision == "tf32", stream_handle=stream_handle, replays=replays)
    return session_without_host(graph, path, rows, (PROVIDER, provider), profile)


def session_without_host(
    graph: bytes | str,
    path: Path,
    rows: int,
    provider: str | tuple[str, dict[str, str]],
    profile: str | None = None,
) -> onnxruntime.InferenceSession:
    """A session all of whose nodes the provider runs; errors as `open_cuda_session`."""
    name = provider if isinstance(provider, str) else provider[0]
    options = session_options(1)
    # All it does here is to give every reduction to cuDNN, which is slow at the few long rows of a normalisation. ONNX
    # Runtime's own kernel adds along trailing axes in a fixed order, too; along leading axes alone it does not.
    options.use_deterministic_compute = False
    options.add_free_dimension_override_by_name(BATCH_AXIS, rows)
    options.add_session_config_entry(NO_FALLBACK, "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        with load_errors(path):
            session = import_onnxruntime().InferenceSession(graph, options, providers=[provider], enable_fallback=0)
    except BackendUnavailableError as error:
        if _FELL_BACK not in str(error):
            raise
        raise BackendUnavailableError(
            f"{path}: {name} of this onnxruntime has no kernel for some of its nodes, which would run on the CPU; "
            "install the onnxruntime-gpu of constraints-gpu.txt, or use --backend tensorrt"
        ) from error
    if session.get_providers()[0] != name:
        raise BackendUnavailableError(
            f"onnxruntime fell back to the CPU for {path}: are CUDA and cuDNN of constraints-gpu.txt here?"
        )
    return session


def frozen_graph(path: Path, rows: int) -> bytes:
    """An fp32 graph whose batch axis has `rows` rows: shapes are numbers, functions are written out.

    ONNX Runtime's CPU provider does it, which changes no number: nothing is fused.
    """
    onnxruntime = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_FREEZING_PASSES):
            options = session_options(1)
            options.add_free_dimension_override_by_name(BATCH_AXIS, rows)
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(Path(folder) / f"{number}.onnx")
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            path = Path(options.optimized_model_filepath)
        return path.read_bytes()


def cuda_options(
    index: int, *, tf32: bool = False, stream_handle: int | None = None, replays: bool = False
) -> dict[str, str]:
    """Options of the CUDA provider on GPU `index`: no choice by a clock, TF32 only by name, memory as needed."""
    options = {
        "device_id": str(index),
        "cudnn_conv_algo_search": "HEURISTIC",  # the default times the algorithms and takes what was faster today
        "use_tf32": str(int(tf32)),
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": str(int(replays)),
    }
    return options if stream_handle is None else {**options, "user_compute_stream": str(stream_handle)}

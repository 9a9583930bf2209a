"""What share of a GPU's matrix rate the denoiser reaches: its multiply-adds a second beside those of cuBLAS."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

from ..engine.bundle.checks import check_inputs
from ..engine.bundle.load import Bundle
from ..engine.cuda.device import Buffer
from ..engine.cuda.gpu import CudaDevice
from ..engine.cuda.loops import DeviceLoops
from ..engine.cuda.shapes import loop_shape
from ..engine.errors import BackendUnavailableError
from ..engine.onnx_sessions import import_onnxruntime
from .gpu_timing import milliseconds
from .work import count_macs

SIDE = 8192  # of the square matrices: far beyond what fills a GPU
_LIBRARY = "libcublas.so.13"
_KINDS = {  # precision: cudaDataType of the factors, of the product, cublasComputeType
    "fp32": (0, 0, 68),
    "tf32": (0, 0, 77),
    "fp16": (2, 2, 68),
    "bf16": (14, 14, 68),
}
_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
_DEFAULT_ALGORITHM = -1


def matrix_tflops(device: CudaDevice, precision: str) -> float:
    """10^12 operations a second of cuBLAS's product of two large square matrices, sums in fp32.

    BackendUnavailableError where cuBLAS is not here or refuses.
    """
    import_onnxruntime().preload_dlls()  # which knows where wheels put it
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise BackendUnavailableError(f"{_LIBRARY} does not load: {error}") from error
    stream, handle = device.stream(), ctypes.c_void_p()
    matrices = [device.allocate((SIDE * SIDE * _BYTES[precision],), "uint8") for _ in range(3)]
    one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
    factor, product, compute = _KINDS[precision]
    a, b, c = (ctypes.c_void_p(matrix.address) for matrix in matrices)
    sides = [ctypes.c_int(SIDE)] * 3

    def checked(function: str, *arguments: Any) -> None:
        status = getattr(library, function)(*arguments)
        if status:
            raise BackendUnavailableError(f"cuBLAS: {function} ended with status {status}")

    checked("cublasCreate_v2", ctypes.byref(handle))
    try:
        checked("cublasSetStream_v2", handle, ctypes.c_void_p(int(stream.handle)))
        multiply = partial(
            checked, "cublasGemmEx", handle, 0, 0, *sides, ctypes.byref(one), a, factor, SIDE, b, factor, SIDE,
            ctypes.byref(zero), c, product, SIDE, compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip
        return 2 * SIDE**3 / milliseconds(stream, multiply) / 1e9
    finally:
        library.cublasDestroy_v2(handle)


def denoiser_rate(device: CudaDevice, bundle: Bundle, loops: DeviceLoops[Any], samples: int) -> tuple[float, float]:
    """(milliseconds, 10^12 operations a second) of a call of the denoiser for so many samples.

    BackendUnavailableError where its multiply-adds cannot be counted here.
    """
    spec = bundle.manifest.components["denoiser"]
    macs = count_macs(bundle.component_path("denoiser"), check_inputs(spec, 1))  # of one sample
    if macs is None:
        raise BackendUnavailableError('multiply-adds are counted with onnx: pip install "sbldm-engine[export]"')
    stream = device.stream()
    rows = loop_shape(bundle.manifest, "denoiser", samples, guided=False).rows
    network = loops.networks.components({"denoiser": rows}, device, (stream, stream))["denoiser"]

    def buffer(shape: tuple[int | str, ...], dtype: str) -> Buffer:
        return device.allocate((rows, *(int(size) for size in shape[1:])), dtype)

    given = check_inputs(spec, rows)
    inputs = {tensor.name: buffer(tensor.shape, tensor.dtype) for tensor in spec.inputs}
    outputs = {tensor.name: buffer(tensor.shape, tensor.dtype) for tensor in spec.outputs}
    for name, values in given.items():
        device.upload(inputs[name], values, stream)
    ms = milliseconds(stream, lambda: network.enqueue(inputs, outputs, stream))
    return ms, 2 * samples * macs / ms / 1e9

"""The words with which the libraries below say that memory ran out."""

from __future__ import annotations

import re

_SIGNS = re.compile(
    r"failed to allocate memory|bfc_?arena|bad_alloc|out[ _]of[ _]memory|(cuda|cudnn) (failure|error) 2\b|"
    r"cudaErrorMemoryAllocation|(cublas|cudnn)_status_alloc_failed|insufficient (device )?memory",
    re.I,
)


def says_out_of_memory(text: str) -> bool:
    """Whether a message of ONNX Runtime, CUDA, cuBLAS, cuDNN or TensorRT is about memory that could not be had."""
    return _SIGNS.search(text) is not None

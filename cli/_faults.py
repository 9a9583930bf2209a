"""What the system, Python or a missing package raised, as a message and an exit code."""

from __future__ import annotations

import errno
import os

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNUSABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
     errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV}
)  # fmt: skip
_FAILING = frozenset({errno.EIO, errno.ESTALE, errno.ENOLCK, errno.ETIMEDOUT, errno.EREMOTEIO})
_TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE})
_NO_ROOM = ("failed to map segment", "annot allocate memory")  # what the loader says of a library
EXTRAS = {
    "onnxruntime": "cpu", "openvino": "openvino", "ray": "ray",
    "tensorrt": "tensorrt", "pycuda": "pycuda", "cuda": "gpu",
    "torch": "train", "lightning": "train", "monai": "train", "safetensors": "train",
    "yaml": "train", "tensorboard": "train", "matplotlib": "train", "threadpoolctl": "train",
    "huggingface_hub": "hub", "onnx": "export", "onnxscript": "export", "onnxslim": "export",
}  # fmt: skip
"""Package that may be missing -> extra that brings it."""


def explained(error: Exception) -> tuple[str, int] | None:
    """Message and exit code of an error that has a known cause outside of the program; None for any other."""
    if isinstance(error, MemoryError):
        return "no memory left; go on with --resume, a smaller --batch-size or fewer --workers", 5
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS:
            return f'{package} is not installed: pip install "sbldm-engine[{EXTRAS[package]}]"', 2
    if isinstance(error, ImportError) and any(sign in str(error) for sign in _NO_ROOM):
        return f"no memory left for a library ({error}); allow more (ulimit -v, memory of a container)", 5
    if "node timed out during startup" in str(error):  # Ray raises a bare Exception
        return "--ray local: Ray did not start in time, is the machine overloaded? try again, or use --workers", 4
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no more threads can be started (ulimit -u, or the pids limit of a container); allow more", 4
    return _of_system(error) if isinstance(error, OSError) else None


def _of_system(error: OSError) -> tuple[str, int] | None:
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in _TOO_MANY:
        return f"{where}too many open files; raise `ulimit -n`, a run can be gone on with by --resume", 5
    if error.errno in _FULL:
        return f"{where}{error.strerror}; make room, a run can be gone on with by --resume", 5
    if error.errno == errno.ENOENT and _directory_is_gone():
        return "the working directory no longer exists; change into one that does", 2
    if error.errno in _FAILING:
        return f"{where}{error.strerror}; mend that, a run can be gone on with by --resume", 5
    if error.errno in _UNUSABLE and error.filename is not None:
        return f"{where}cannot be used ({error.strerror}); give another path, or mend that", 2
    return None


def _directory_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False

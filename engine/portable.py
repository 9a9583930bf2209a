"""The calls that not every system has, each with a way that works without it; nothing else in the package makes them.

Tried on Linux. Elsewhere the second way is taken: psutil for processes and processors, lock folders for `flock`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATH_ONLY: int = getattr(os, "O_PATH", 0)
"""Flag that opens a folder which may be entered, not listed; 0 where there is none: such folders are refused."""
_NO_FLOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EPERM})
_CLONE = 0x40049409  # FICLONE of linux/fs.h: the copy shares the blocks until one side changes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGEST_KEPT = (1 << 26, 1 << 25)  # bytes of an array; glibc before 2.35 takes no more than the second
_KEPT_BYTES = 1 << 29
_CLOCK_STEP_S = 2.0  # by which the start time of one process may seem to move


class NoFileLocksError(OSError):
    """The system or the file system has no `flock`."""


def flock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file without waiting; the lock ends with the descriptor.

    Raises:
        BlockingIOError: it is locked.
        NoFileLocksError: there is no such lock here.
    """
    if fcntl is None:
        raise NoFileLocksError(errno.ENOSYS, "this system has no flock")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_FLOCK:
            raise NoFileLocksError(error.errno, error.strerror) from error
        raise


def clone_file(target: int, source: int) -> bool:
    """Let a file take the blocks of another of the same file system, where that can share them; whether it did."""
    if fcntl is None or not hasattr(fcntl, "ioctl"):
        return False
    try:
        fcntl.ioctl(target, _CLONE, source)
    except OSError:
        return False
    return True


def nameless_memory(size: int) -> int:
    """Descriptor of `size` zero bytes for processes to share, in no file system: gone with the last of them.

    OSError where the system has no such memory.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "this system has no memory without a name")
    descriptor = os.memfd_create("sbldm", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def end_signals() -> tuple[signal.Signals, ...]:
    """Signals that ask a process to end."""
    return tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def has_display() -> bool:
    """Whether a window could be opened here, as far as the environment tells."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def has_flock() -> bool:
    """Whether the system has file locks at all."""
    return fcntl is not None


def memory_bytes() -> dict[str, int]:
    """Memory of the machine, and what of it is free now."""
    import psutil

    found = psutil.virtual_memory()
    return {"total": found.total, "available": found.available}


def free_memory() -> int:
    """Bytes that this process can still have: of the machine, and below its limit of address space."""
    import psutil

    free = psutil.virtual_memory().available
    limit = process_limits().get("address_space_bytes")
    return free if limit is None else min(free, max(0, limit - psutil.Process().memory_info().vms))


def keep_freed_memory() -> None:
    """Let the C library keep what arrays of up to 64 MiB (or 32) leave, up to 512 MiB, for those that come next.

    By default glibc returns it to the system for each network of each sample, which clears every page anew: 7 % of a
    sample's processor time (docs/benchmarks.md). For processes of this program alone, since it holds for the whole
    process; a setting of the user's stays. Nothing happens without glibc.
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys()
    if chosen or "_threshold=" in os.environ.get("GLIBC_TUNABLES", "") or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT):  # else every array would be given back at once
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def allowed_cpus() -> int:
    """Processors that the scheduler may put this process on; all of them where the system does not tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        return len(affinity(0))
    import psutil

    try:
        return len(psutil.Process().cpu_affinity())
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def cache_home() -> Path:
    """The user's cache folder of this program, which may not exist yet; OSError for a user without a home."""
    from platformdirs import user_cache_path

    try:
        path = user_cache_path("sbldm-engine")
    except (RuntimeError, KeyError):
        path = Path()
    if not path.is_absolute():  # "~/.cache", where nobody knows what ~ is
        raise FileNotFoundError(errno.ENOENT, "no home directory; set HOME or XDG_CACHE_HOME", "cache")
    return path


def be_nice(more: int) -> None:
    """Let other processes go first, where the system has an order of them."""
    if hasattr(os, "nice"):
        os.nice(more)


def user_name() -> str:
    """The user of the operating system that this process runs as; its number where it has no name."""
    import psutil

    try:
        return psutil.Process().username()
    except (psutil.Error, KeyError, ImportError):  # a system without `pwd`
        return str(getattr(os, "getuid", lambda: "unknown")())


def process_limits() -> dict[str, int | None]:
    """What `ulimit` leaves to this process: address space in bytes, processes, open files; None where unlimited."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    kinds = {"address_space_bytes": "RLIMIT_AS", "processes": "RLIMIT_NPROC", "open_files": "RLIMIT_NOFILE"}
    found = {name: resource.getrlimit(getattr(resource, kind))[0] for name, kind in kinds.items()}
    return {name: None if limit == resource.RLIM_INFINITY else limit for name, limit in found.items()}


def machine() -> str:
    """What tells machines, and containers with process numbers of their own, apart; begins with the host's name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def process_started(pid: int) -> float | None:
    """When a process of this machine started, seconds since the epoch; None where it runs no more."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def same_start(one: float, other: float) -> bool:
    """Whether two start times may be those of one process."""
    return abs(one - other) < _CLOCK_STEP_S

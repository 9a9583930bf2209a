"""How many threads networks run on: what the machine leaves to us, shared out, and whether they can be started."""

from __future__ import annotations

import logging
import os
import threading
import time

from .errors import BackendUnavailableError
from .processor import available_threads, slurm_cpus

SHARD_THREADS = 2  # of a shard whose scheduler says nothing: the same on every node, so that `merge` finds equal runs
_RESERVED_THREADS = 2  # beside those of the networks: the first writer of files, the watch of the time limit
_THREAD_END_S = 1.0
_OWN_TASKS = "/proc/self/task"


def default_threads(networks: int, workers: int = 1, shards: int = 1) -> int:
    """Threads of one network in each of `workers` processes where nobody asked for a number.

    A shard cannot see the nodes of its fellows, and threads are part of what must match: its number does not depend on
    the node. Fewer than that, told in the log, where a limit on processes leaves no room for as many.

    Args:
        networks: that a process holds at once, each with threads of its own.

    Raises:
        BackendUnavailableError: not even one thread a network can be had.
    """
    if shards > 1:
        return slurm_cpus() or SHARD_THREADS
    wanted = max(1, available_threads() // workers)
    room = startable_threads(_started_by(wanted, networks, workers))
    fitting = wanted
    while fitting > 1 and _started_by(fitting, networks, workers) > room:
        fitting -= 1
    if _started_by(fitting, networks, workers) > room:
        raise BackendUnavailableError(
            f"only {room} more threads can be started here (a limit on processes: ulimit -u, pids of a container), "
            f"a run needs {_started_by(fitting, networks, workers)}; allow more"
        )
    if fitting < wanted:
        logging.getLogger("sbldm").warning(
            f"only {room} more threads can be started here (a limit on processes: ulimit -u, pids of a container): "
            f"networks run on {fitting} threads, not on {wanted}"
        )
    return fitting


def require_threads(threads: int, networks: int, workers: int = 1) -> None:
    """BackendUnavailableError where the threads of the networks, and those beside them, cannot be started."""
    needed = _started_by(threads, networks, workers)
    room = startable_threads(needed)
    if room < needed:
        raise BackendUnavailableError(
            f"--threads {threads}: {networks} networks need {needed} more threads, only {room} can be started here "
            "(a limit on processes: ulimit -u, pids of a container); give fewer --threads, or allow more"
        )


def startable_threads(wanted: int) -> int:
    """How many threads this process can start now, at most `wanted`: tried, for such limits are told nowhere."""
    before, release = _running_threads(), threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass  # can't start new thread
    finally:
        release.set()
        for thread in started:
            thread.join()
    end = time.monotonic() + _THREAD_END_S
    while _running_threads() > before and time.monotonic() < end:
        time.sleep(0.001)  # the system counts a thread for a moment after it was joined
    return len(started)


def _started_by(threads: int, networks: int, workers: int) -> int:
    return networks * (threads - 1) * workers + _RESERVED_THREADS


def _running_threads() -> int:
    try:
        return len(os.listdir(_OWN_TASKS))
    except OSError:
        return 0

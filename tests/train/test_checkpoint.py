"""Files of a training directory that the disk refuses."""

from __future__ import annotations

import errno
import multiprocessing
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from sbldm.engine.errors import IncompleteRunError, UsageError
from sbldm.train.checkpoint import read_tensors, write_tensors
from sbldm.train.lock import disk_errors
from sbldm.train.shared_store import new_array

SMALL, LARGE = {"w": torch.ones(2)}, {"w": torch.ones(100_000)}


def limited(function: object, *arguments: object) -> str:
    """What a function raises in a process whose files end at 10,000 bytes, as `type errno`."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_limited, args=(theirs, function, arguments))
    child.start()
    told = ours.recv() if ours.poll(60) else f"died with {child.exitcode}"
    child.join(60)
    return told


def _limited(pipe, function, arguments) -> None:  # type: ignore[no-untyped-def]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        function(*arguments)
    except OSError as error:
        pipe.send(f"OSError {errno.errorcode[error.errno or 0]}")
    except SafetensorError as error:
        pipe.send(repr(error))
    else:
        pipe.send("nothing")


def test_a_full_disk_is_the_systems_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, SMALL)
    assert limited(write_tensors, path, LARGE) == "OSError EFBIG"
    assert torch.equal(read_tensors(path)["w"], SMALL["w"])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_latents_that_find_no_room_are_told_before_they_are_made(tmp_path: Path) -> None:
    assert limited(new_array, tmp_path / "a.npy", (100_000,)) == "OSError EFBIG"
    array = new_array(tmp_path / "b.npy", (3, 2))
    array[:] = 1
    assert (tmp_path / "b.npy").stat().st_blocks


@pytest.mark.parametrize(
    ("number", "raised", "told"),
    [
        (errno.ENOSPC, IncompleteRunError, "no room left on the disk.*goes on from the last checkpoint"),
        (errno.EFBIG, IncompleteRunError, "no room left"),
        (errno.EDQUOT, IncompleteRunError, "no room left"),
        (errno.EACCES, UsageError, "cannot be written"),
        (errno.EROFS, UsageError, "cannot be written"),
    ],
)
def test_errors_of_the_disk_have_their_exit_codes(
    tmp_path: Path, number: int, raised: type[Exception], told: str
) -> None:
    with pytest.raises(raised, match=told), disk_errors(tmp_path):
        raise OSError(number, "said by the system", str(tmp_path / "file"))

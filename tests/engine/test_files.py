"""Containment: names that leave, links, devices, names of others; and files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.files import atomic_file, make_directory, read_bounded, write_atomic
from sbldm.engine.folder import Folder, temporary_of


def test_write_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_write_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_what_a_killed_process_of_this_number_left_is_no_obstacle_and_not_written_through(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_bytes(b"years of work")
    os.link(thesis, tmp_path / f"a.bin.{os.getpid()}.tmp")
    write_atomic(tmp_path / "a.bin", b"new")
    assert thesis.read_bytes() == b"years of work"
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "thesis.txt"]


def test_create_never_replaces(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        assert folder.create("run.json", b"first")
        assert not folder.create("run.json", b"second")
    assert (tmp_path / "run.json").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../x", "a//x", "./x", "a/", "a\\x", "a\0x"])
def test_names_that_could_leave_are_refused_by_everything(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "x").write_bytes(b"outside")
    with Folder(inside) as folder, Folder(tmp_path) as other:
        for act in (
            lambda: folder.write(name, b""),
            lambda: folder.create(name, b""),
            lambda: folder.remove(name),
            lambda: folder.bring(other, "x", name, link=True),
            lambda: folder.appending(name),
            lambda: folder.read(name, 10),
            lambda: folder.sync(name),
        ):
            with pytest.raises(InvalidInputError, match="relative"):
                act()
    assert (tmp_path / "x").read_bytes() == b"outside"
    assert not list(inside.iterdir())


def test_folders_are_made_lasting_before_their_files_and_few_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run makes one for each sample: what is kept of it must not grow."""
    synced: list[int] = []
    monkeypatch.setattr("sbldm.engine.folder.sync_folder", synced.append)
    with Folder(tmp_path) as folder:
        for number in range(1000):
            for name in ("image", "mask"):
                folder.write(f"{number}/{name}", b"", sync=False)
        assert len(synced) == 1000
        assert len(folder._lasting) < 300


def test_links_are_not_followed_in_any_part(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "victim").write_bytes(b"mine")
    (inside / "folder").symlink_to(outside)
    (inside / "victim").symlink_to(outside / "victim")
    with Folder(inside) as folder:
        for act in (
            lambda: folder.write("folder/victim", b"x"),
            lambda: folder.remove("folder/victim") or (_ for _ in ()).throw(OSError()),
            lambda: folder.read("victim", 10),
            lambda: folder.appending("victim"),
        ):
            with pytest.raises(OSError):  # noqa: PT011 - ELOOP or ENOTDIR, whichever the system says
                act()
        assert folder.status("victim") is None
        folder.write("victim", b"its own")
    assert (outside / "victim").read_bytes() == b"mine"
    assert (inside / "victim").read_bytes() == b"its own"


def test_names_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_bytes(b"x")
    (tmp_path / "thesis.txt.1.tmp").write_bytes(b"x")
    with Folder(tmp_path, lambda name: name.startswith("s/")) as folder:
        for act in (lambda: folder.write("thesis.txt", b""), lambda: folder.remove("thesis.txt")):
            with pytest.raises(InvalidInputError, match="left alone"):
                act()
        folder.write("s/a.gz", b"")
        for name in ("s/a.gz.1.tmp", "s/b.gz.tmp", "s/c.tmp.tmp"):
            (tmp_path / name).write_bytes(b"")
        assert folder.clear_temporaries(lambda name: name != "s/b.gz") == ["s/a.gz.1.tmp", "s/c.tmp.tmp"]
        assert sorted(folder.walk()) == ["s/a.gz", "s/b.gz.tmp", "thesis.txt", "thesis.txt.1.tmp"]


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(b"12345")
    with Folder(tmp_path) as folder:
        assert folder.status("pipe") is None
        with pytest.raises(OSError, match="not a regular file"):
            folder.read("pipe", 10)
        with pytest.raises(OSError, match="not a regular file"):
            folder.appending("pipe").close()
        assert folder.read("big", 5) == b"12345"
        with pytest.raises(InvalidInputError, match="larger than 4"):
            folder.read("big", 4)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises((InvalidInputError, OSError)):
            read_bounded(path, 10)


def test_a_single_file_never_takes_the_place_of_something_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder"):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            write_atomic(path, b"x")
        assert not path.is_file()
    (tmp_path / "old").write_bytes(b"old")
    write_atomic(tmp_path / "old", b"new")
    assert (tmp_path / "old").read_bytes() == b"new"


def test_a_copy_is_its_own_and_a_link_is_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a").write_bytes(b"before")
    make_directory(target / "deep" / "er")
    with Folder(source) as from_folder, Folder(target / "deep" / "er") as folder:
        assert folder.bring(from_folder, "a", "x/linked", link=True)
        assert not folder.bring(from_folder, "a", "x/copied", link=False)
        assert folder.bring(from_folder, "a", "x/linked", link=True)  # again
        assert folder.names() == ["x"]
    (source / "a").write_bytes(b"after!")
    made = target / "deep/er/x"
    assert (made / "linked").read_bytes() == b"after!"
    assert (made / "copied").read_bytes() == b"before"
    assert sorted(os.listdir(made)) == ["copied", "linked"]


def test_temporary_names() -> None:
    assert temporary_of("s/a.nii.gz.77.tmp") == "s/a.nii.gz"
    assert temporary_of("s/a.nii.gz.tmp") == "s/a.nii.gz"
    assert temporary_of("s/a.nii.gz") is None


def test_a_private_folder_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for private, file_mode, folder_mode in ((True, 0o600, 0o700), (False, 0o666, 0o777)):
            root = tmp_path / str(private)
            root.mkdir()
            with Folder(root, private=private) as folder:
                folder.write("case/image", b"voxels")
            assert stat.S_IMODE((root / "case" / "image").stat().st_mode) == file_mode
            assert stat.S_IMODE((root / "case").stat().st_mode) == folder_mode
    finally:
        os.umask(before)

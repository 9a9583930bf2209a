"""One module makes, links, renames and removes files; nothing else in the engine or the command line does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sbldm.engine

ROOT = Path(sbldm.engine.__file__).resolve().parents[1]
CONTAINING = {"engine/files.py", "engine/folder.py", "engine/new_files.py", "engine/locked_files.py", "engine/trees.py"}
ALLOWED = {
    # lock folders are made and removed beside what they lock, by the same descriptors
    "engine/locks.py": {"os.mkdir", "os.rmdir", "os.unlink", "os.open for writing", "os.utime"},
    "engine/portable.py": {"os.ftruncate"},  # of memory without a name, which is in no file system
    "engine/studio/given.py": {".rename"},  # in a folder of its own that passes
    "engine/studio/received.py": {".mkdir", ".open for writing"},  # there too, by plain names
    "cli/_plots.py": {"tempfile.mkdtemp"},  # for Matplotlib, where no cache can be written
}
OS_CALLS = {
    "unlink", "remove", "rmdir", "removedirs", "rename", "renames", "replace", "link", "symlink", "mkdir", "makedirs",
    "mkfifo", "truncate", "ftruncate", "utime", "chmod", "chown",
}  # fmt: skip
PATH_METHODS = {"unlink", "rmdir", "rename", "hardlink_to", "symlink_to", "touch", "write_text", "write_bytes", "mkdir"}
TREE_CALLS = {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "mkstemp", "mkdtemp"}


def changes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of the calls that change a file system."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function, arguments = node.func, [ast.unparse(argument) for argument in node.args]
        if isinstance(function, ast.Name) and function.id == "open" and _writes(node):
            yield node.lineno, "open for writing"
        if not isinstance(function, ast.Attribute):
            continue
        owner, name = ast.unparse(function.value), function.attr
        if owner == "os" and name in OS_CALLS:
            yield node.lineno, f"os.{name}"
        elif owner == "os" and name == "open" and any("O_CREAT" in a or "O_WRONLY" in a for a in arguments):
            yield node.lineno, "os.open for writing"
        elif owner in ("shutil", "tempfile") and name in TREE_CALLS:
            yield node.lineno, f"{owner}.{name}"
        elif (owner != "os" and name in PATH_METHODS) or (
            name == "replace" and len(arguments) == 1 and not node.keywords
        ):
            yield node.lineno, f".{name}"
        elif name == "open" and owner != "os" and _writes(node):
            yield node.lineno, ".open for writing"


def _writes(call: ast.Call) -> bool:
    texts = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
    return any(isinstance(text, str) and len(text) < 4 and set(text) & set("wax+") for text in texts)


def test_nothing_else_changes_a_file_system() -> None:
    found = []
    for path in sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        if name in CONTAINING:
            continue
        allowed = ALLOWED.get(name, set())
        found += [
            f"{name}:{line}: {what}" for line, what in changes(ast.parse(path.read_text())) if what not in allowed
        ]
    assert found == []


def test_the_search_finds_what_it_is_for() -> None:
    lines = [
        "os.unlink(x)", "os.rename(a, b)", "p.unlink(missing_ok=True)", "p.replace(q)", "p.mkdir()", "open(p, 'w')",
        "p.open('ab')", "shutil.rmtree(p)", "os.open(p, os.O_RDWR | os.O_CREAT)", "p.write_text(t)", "os.link(a, b)",
    ]  # fmt: skip
    assert len(list(changes(ast.parse("\n".join(lines))))) == len(lines)
    assert list(changes(ast.parse("text.replace('a', 'b')\nopen(p)\np.open('rb')\nos.open(p, flags)"))) == []

"""HTTP stays in its room: nothing else knows of the web framework, and the service's own logic does not either."""

from __future__ import annotations

import ast
from pathlib import Path

import sbldm.engine

ROOT = Path(sbldm.engine.__file__).resolve().parents[1]
WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "h11", "anyio"}
ALLOWED = {
    "engine/service/app.py", "engine/service/asked.py", "engine/service/guard.py", "engine/service/problems.py",
    "engine/service/routes.py",    "engine/service/server.py", "cli/serve.py",
    "engine/studio/app.py", "engine/studio/basket.py", "engine/studio/routes.py", "engine/studio/wish.py",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_only_the_service_and_the_studio_know_of_http() -> None:
    floors = ("benchmarks", "cli", "engine", "export", "kernels", "train")
    found = {
        path.relative_to(ROOT).as_posix()
        for floor in floors
        for path in (ROOT / floor).rglob("*.py")
        if imported(path) & WEB
    }
    assert found == ALLOWED

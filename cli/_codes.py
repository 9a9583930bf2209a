"""The code of an error: which part of the program refused, and so which section of `errors.md` explains it."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

_PACKAGE = (__package__ or "").partition(".")[0]
CODES = {
    "engine.conditions": "conditions",
    "engine.scans": "scans",
    "engine.copies": "scans",
    "engine.masks": "scans",
    "engine.dicom": "dicom",
    "engine.run.nnunet": "nnunet",
    "engine.run.request": "options",
    "engine.run.rules": "options",
    "engine.run.selection": "options",
    "engine.run.arguments": "options",
    "engine.run.row_ids": "conditions",
    "engine.run": "run",
    "engine.bundle": "bundle",
    "engine.hub": "models",
    "engine.backends.tensorrt": "gpu",
    "engine.cuda": "gpu",
    "engine.backends": "backend",
    "engine.onnx_sessions": "backend",
    "engine.threads": "backend",
    "engine.processes": "backend",
    "engine.report": "report",
    "engine.service": "service",
    "engine.studio": "studio",
    "cli.serve": "service",
    "train.evaluation": "evaluation",
    "train.downstream": "downstream",
    "train.phantom": "phantom",
    "train": "training",
    "export": "export",
    "benchmarks": "bench",
    "engine": "options",
    "cli": "options",
}
"""Module below the package, or the beginning of its name -> code; the first that fits."""
_GROUND = re.compile(r"engine\.(files|decode|locks|locked_files|new_files|trees|telemetry|errors|service\.server)$")
"""Modules that others use to refuse: whoever called them says what it is about."""
PAGE = Path(__file__).parent / "errors.md"
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def code_of(error: BaseException) -> str:
    """The code of an error that was raised somewhere in the program."""
    modules = [name for name in _modules(error.__traceback__) if not _GROUND.match(name)]
    raised_in = modules[-1] if modules else ""
    return next((code for start, code in CODES.items() if raised_in.startswith(start)), "options")


def sections() -> dict[str, str]:
    """Code -> what stands on the page below its heading."""
    parts = re.split(r"^## (\S+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {code: _LINK.sub(r"\1 (docs/\2)", text.strip()) for code, text in zip(parts[1::2], parts[2::2], strict=True)}


def _modules(trace: TracebackType | None) -> list[str]:
    """Modules of the package that the error went through, the one that raised it last."""
    found = []
    while trace is not None:
        package, _, module = trace.tb_frame.f_globals.get("__name__", "").partition(".")
        if package == _PACKAGE:
            found.append(module)
        trace = trace.tb_next
    return found

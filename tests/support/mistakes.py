"""The commonest mistakes of users, and what the command line says of each, as text.

`python -m tests.support.mistakes BUNDLE` prints the text for a tiny bundle; it imports nothing of the program but
`sbldm.cli.main`, so that another version of the program can be asked as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sbldm.cli.main import main

Prepare = Callable[[Path], object]


@dataclass(frozen=True)
class Mistake:
    """A command line that must be refused; BUNDLE and the names of prepared files stand for paths."""

    title: str
    command: str
    prepare: Prepare = lambda folder: None  # writes what the command needs into the current folder


def table(text: str | bytes) -> Prepare:
    """A condition table `cond.csv`."""
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "cond.csv").write_bytes(data)


def folder_with_a_file(folder: Path) -> None:
    """A directory `full` that is no run."""
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")


def plain_file(folder: Path) -> None:
    """A file `plain`."""
    (folder / "plain").write_text("mine")


def _generate(rest: str, prepare: Prepare = lambda folder: None) -> tuple[str, Prepare]:
    return f"generate --bundle BUNDLE --threads 1 {rest}", prepare


def _checked(text: str | bytes) -> tuple[str, Prepare]:
    return "conditions check cond.csv --bundle BUNDLE", table(text)


MISTAKES = tuple(
    Mistake(title, *asked)
    for title, asked in {
        "a command that does not exist": ("generat --count 2",),
        "an option that does not exist": _generate("--out out --cuont 2"),
        "no --out": _generate("--count 2"),
        "neither --count nor --conditions": _generate("--out out"),
        "a count in words": _generate("--count two --out out"),
        "a count of nothing": _generate("--count 0 --out out"),
        "several options out of range at once": _generate("--count 1 --steps 0 --eta 2 --guidance -1 --out out"),
        "more steps than the schedule has": _generate("--count 1 --steps 5000 --out out"),
        "a seed below zero": _generate("--count 1 --seed -1 --out out"),
        "an unknown sampler": _generate("--count 1 --sampler euler --out out"),
        "noise in a sampler without noise": _generate("--count 1 --sampler dpmpp-2m --eta 1 --out out"),
        "an unknown backend": _generate("--count 1 --backend trt --out out"),
        "an unknown device": _generate("--count 1 --device gpu --out out"),
        "TensorRT on the CPU": _generate("--count 1 --backend tensorrt --device cpu --out out"),
        "a precision that the bundle lacks": _generate("--count 1 --precision int8 --out out"),
        "an unknown layout": _generate("--count 1 --layout nunet --out out"),
        "an unknown grid": _generate("--count 1 --grid 1mm --out out"),
        "a batch of nothing": _generate("--count 1 --batch-size 0 --out out"),
        "no worker": _generate("--count 1 --workers 0 --out out"),
        "a shard beyond the last": _generate("--count 4 --shard 4/4 --out out"),
        "samples beyond the run": _generate("--count 3 --samples 2-5 --out out"),
        "--add-to without nnU-Net's layout": _generate("--count 1 --add-to raw --out out"),
        "an output directory that holds files": _generate("--count 1 --out full", folder_with_a_file),
        "an output directory that is a file": _generate("--count 1 --out plain", plain_file),
        "a bundle that does not exist": ("generate --bundle gliomas --count 1 --out out",),
        "a folder that is no bundle": ("generate --bundle full --count 1 --out out", folder_with_a_file),
        "a condition file that does not exist": _generate("--conditions cond.csv --out out"),
        "no data rows": _checked("volume_ml\n"),
        "a misspelt column": _checked("volume,sphericty\n20,0.6\n"),
        "semicolons between columns": _checked("volume_ml;x\n20;0,5\n"),
        "a decimal comma and text": _checked('volume_ml,x\n"20,5",0.5\nlarge,0.5\n'),
        "a row with too few cells": _checked("id,volume_ml,x\na,20\n"),
        "an id twice": _checked("id,volume_ml\na,20\na,30\n"),
        "numbers out of range": _checked("volume_ml,sphericity,x\n-4,0.5,0.5\n20,1.5,0.5\n20,0.5,2\n"),
        "a tumour larger than its box": _checked("volume_ml,w,h,d\n100,0.1,0.1,0.1\n"),
        "sphericity against volume and surface": _checked("volume_ml,surface_cm2,sphericity\n20,60,0.95\n"),
        "shares that do not sum to 1": _checked("ncr_share,ed_share,et_share\n0.5,0.5,0.5\n"),
        "a table saved as UTF-16": _checked("volume_ml\n20\n".encode("utf-16")),
        "a cohort that is not there": ("train --data cohort --preset phantom --out model",),
        "an unknown preset": ("train --data full --preset brats --out model", folder_with_a_file),
        "export of what is no training directory": ("export --checkpoint full --out bundle", folder_with_a_file),
        "a case that is not there": ("augment case --bundle BUNDLE --count 1 --out out",),
        "verify of what is no run": ("verify full", folder_with_a_file),
        "merge of what is no run": ("merge full --out out", folder_with_a_file),
        "inspect of what is no bundle": ("inspect full", folder_with_a_file),
    }.items()
)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as cache, contextlib.chdir(folder):
        before = dict(os.environ)
        os.environ |= {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "XDG_CACHE_HOME": cache}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def answer(mistake: Mistake, bundle: Path) -> str:
    """What the program answers: command, exit code, stdout and stderr, files that appeared; without paths and boxes."""
    with tempfile.TemporaryDirectory() as name, _inside(Path(name)):
        folder = Path(name)
        mistake.prepare(folder)
        before = set(folder.rglob("*"))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(bundle) if word == "BUNDLE" else word for word in shlex.split(mistake.command)])
        appeared = sorted(path.relative_to(folder).as_posix() for path in set(folder.rglob("*")) - before)
        said = (out.getvalue() + err.getvalue()).replace(str(bundle), "BUNDLE").replace(f"{name}/", "")
    lines = [re.sub(r"\s+", " ", re.sub("[─│╭╮╰╯]", " ", line)).strip() for line in said.splitlines()]
    told = [line for line in lines if line]
    return "\n".join([f"$ sbldm-engine {mistake.command}", *told, f"exit code {code}", *appeared])


def answers(bundle: Path) -> str:
    """The answers to all mistakes."""
    return "\n\n".join(f"# {mistake.title}\n{answer(mistake, bundle)}" for mistake in MISTAKES) + "\n"


if __name__ == "__main__":
    print(answers(Path(sys.argv[1])), end="")

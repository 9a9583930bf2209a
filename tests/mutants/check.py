"""Do the tests notice what they are there to notice? Each mutant of `mutants.toml` must make one of its tests fail.

python tests/mutants/check.py [--jobs N] [NAME ...]

A mutant changes one place of one file. It is made in a copy of the source, and its tests run there, in a process forked
from one that has the libraries loaded. A mutant whose old text is not there exactly once is an error, so that the list
follows the code; so is a test that fails on the unchanged source. SBLDM_TINY may name the folder in which an earlier
test session kept what it shared; otherwise the tiny model is exported first. Each trial has a copy of that folder.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
SOURCE = (".links", "benchmarks", "cli", "docs/schemas", "engine", "export", "kernels", "tests", "train")
FILES = ("__init__.py", "pyproject.toml")
LIBRARIES = (
    "diffusers", "fastapi", "highdicom", "hypothesis", "lightning.fabric", "matplotlib.pyplot", "model_signing.signing",
    "monai.losses", "nibabel", "onnxruntime", "onnxscript", "onnxslim", "pydicom", "pytest", "pytest_timeout",
    "scipy.ndimage", "skimage.measure", "starlette.testclient", "torch",
)  # fmt: skip
LONGEST_S = 300.0  # for the tests of a mutant; after that they hang
TOLD_S = 200  # after which a test says where it is
PASSED, FAILED = 0, 1  # pytest's exit codes
BROKEN = 100  # a test could not start or end: that says nothing of the mutant
ORIGINAL = "original"  # beside the trees
MAKE_TINY = """
from pathlib import Path
from sbldm.export.bundle import ExportOptions, export_bundle
from tests.conftest import TRACED_OPSET
from tests.support.tiny import write_tiny_checkpoint
checkpoint = write_tiny_checkpoint(Path("{tiny}/checkpoint"))
export_bundle(checkpoint, Path("{tiny}/bundle"), ExportOptions(opset=TRACED_OPSET))
"""


@dataclass(frozen=True)
class Mutant:
    """One change, and the tests of which at least one must fail under it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """Tests that run in a tree."""

    name: str
    tests: tuple[str, ...]
    tree: Path
    mutant: Mutant | None  # None: the source as it is
    started_s: float

    @property
    def output(self) -> Path:
        """What pytest says."""
        return self.tree / "output.txt"


class Watched:
    """A plugin of pytest that tells tests that fail from tests that do not run."""

    broken = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what went wrong outside of a test's own body."""
        self.broken |= report.failed and report.when != "call"


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The list; ValueError with each mutant that no longer fits the code."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    faults = [f"{name}: listed twice" for name, n in Counter(m.name for m in mutants).items() if n > 1]
    for mutant in mutants:
        file = ROOT / mutant.file
        found = file.read_text(encoding="utf-8").count(mutant.old) if file.is_file() else 0
        if found != 1:
            faults.append(f"{mutant.name}: its old text is {found} times in {mutant.file}; bring the list to the code")
        faults += [f"{mutant.name}: no {t}" for t in mutant.tests if not (ROOT / t.partition("::")[0]).is_file()]
    if faults:
        raise ValueError("\n".join(faults))
    return mutants


def load_libraries() -> None:
    """Import them, none with a thread of its own: a fork takes the locks that a thread holds, and not the thread.

    ONNX Runtime has one that reports to the outside, unless that is switched off first. The file that does so is run,
    not imported, since each tree has its own package.
    """
    runpy.run_path(str(ROOT / "engine" / "no_telemetry.py"))["switch_off"]()
    for library in LIBRARIES:
        importlib.import_module(library)
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads > 1:
        raise RuntimeError(f"{threads - 1} threads run beside the one that forks; name the library that started them")


def put_in(mutant: Mutant, tree: Path) -> None:
    """Make the change in a tree."""
    file = tree / mutant.file
    file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")


def take_out(mutant: Mutant, tree: Path) -> None:
    """Bring the file back, times included, so that what is compiled of it counts again."""
    shutil.copy2(tree.with_name(ORIGINAL) / mutant.file, tree / mutant.file)


def run_tests(trial: Trial, tiny: Path) -> None:
    """In a forked child: run the tests of a tree and leave with pytest's exit code."""
    import pytest

    links, shared = str(trial.tree / ".links"), trial.tree / "shared"
    shutil.rmtree(shared, ignore_errors=True)  # a mutant may have made some of it
    shutil.copytree(tiny, shared, ignore=shutil.ignore_patterns("*.lock"))
    os.chdir(trial.tree)
    sys.dont_write_bytecode, sys.path[0] = True, links
    os.environ |= {"PYTHONPATH": links, "PYTHONDONTWRITEBYTECODE": "1", "SBLDM_TINY": str(shared)}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # some take longer to load than most mutants to die
    if trial.mutant:
        _no_shrinking()
    descriptor = os.open(trial.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    watched, first = Watched(), ["-x"] if trial.mutant else []
    options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", f"--basetemp={trial.tree / 'tmp'}", *first]
    options += ["-o", f"faulthandler_timeout={TOLD_S}"]
    code = int(pytest.main([*options, *trial.tests], plugins=[watched]))
    sys.stdout.flush()
    os._exit(BROKEN if watched.broken else code)


def _no_shrinking() -> None:
    """Any example that fails will do."""
    from hypothesis import Phase, settings

    settings.register_profile("mutant", phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutant")


def try_all(mutants: Sequence[Mutant], trees: Sequence[Path], tiny: Path) -> list[str]:
    """The tests on the unchanged source and every mutant, one a tree at a time; what is wrong, in words."""
    fork = multiprocessing.get_context("fork")
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    waiting: list[tuple[str, tuple[str, ...], Mutant | None]] = [("the source as it is", tests, None)]
    waiting += [(mutant.name, mutant.tests, mutant) for mutant in mutants]
    free, faults = list(trees), list[str]()
    running: dict[BaseProcess, Trial] = {}
    while waiting or running:
        while waiting and free:
            name, tests, mutant = waiting.pop(0)
            trial = Trial(name, tests, free.pop(), mutant, time.monotonic())
            if mutant is not None:
                put_in(mutant, trial.tree)
            process = fork.Process(target=run_tests, args=(trial, tiny))
            process.start()
            running[process] = trial
        wait([process.sentinel for process in running], timeout=1)
        for process, trial in list(running.items()):
            if process.is_alive() and trial.mutant and time.monotonic() - trial.started_s > LONGEST_S:
                process.kill()
                process.join()
            if not process.is_alive():
                del running[process]
                free.append(trial.tree)
                if trial.mutant is not None:
                    take_out(trial.mutant, trial.tree)
                fault = judge(trial, process.exitcode)
                faults += [fault] if fault else []
    return faults


def judge(trial: Trial, code: int | None) -> str | None:
    """Print how a trial ended; what is wrong with that, None for nothing."""
    wanted = FAILED if trial.mutant else PASSED
    said = {PASSED: "passes" if trial.mutant is None else "SURVIVES", FAILED: "is killed" if trial.mutant else "FAILS"}
    verdict = said.get(-1 if code is None else code, f"BREAKS its tests (exit code {code})")
    print(f"{time.monotonic() - trial.started_s:6.1f} s  {trial.name} {verdict}", flush=True)
    return None if code == wanted else f"{trial.name} {verdict}:\n{trial.output.read_text(errors='replace')[-6000:]}"


def main() -> int:
    """Check the mutants that are named, or all; 0 where each is killed, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trees at a time")
    given = parser.parse_args()
    try:
        mutants = read_mutants()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    unknown = set(given.names) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error(f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in mutants)}")
    chosen = [mutant for mutant in mutants if not given.names or mutant.name in given.names]
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in SOURCE:
            shutil.copytree(ROOT / part, folder / ORIGINAL / part, symlinks=True)
        for file in FILES:
            shutil.copy2(ROOT / file, folder / ORIGINAL / file)
        trees = [folder / f"tree-{k}" for k in range(min(given.jobs, len(chosen) + 1))]
        for tree in trees:
            shutil.copytree(folder / ORIGINAL, tree, symlinks=True)
        tiny = Path(os.environ.get("SBLDM_TINY", folder / "tiny"))
        if not (tiny / "bundle").is_dir():
            found = {**os.environ, "PYTHONPATH": str(folder / ORIGINAL / ".links")}
            script = MAKE_TINY.format(tiny=tiny)
            subprocess.run([sys.executable, "-c", script], cwd=folder / ORIGINAL, env=found, check=True)
        load_libraries()
        faults = try_all(chosen, trees, tiny)
    print("\n\n".join(faults) or f"{len(chosen)} mutants, each of them killed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

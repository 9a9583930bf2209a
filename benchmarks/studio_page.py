"""How long the studio's page takes: from `studio` to a drawn volume, from a slider to the next; bytes and memory.

    python -m sbldm.benchmarks.studio_page --bundle glioma --starts 3 --changes 10

A headless Chromium (Debian's), which draws in software on the same cores, is open before `studio` starts; the first
volume counts from the start of the program to the frame that shows it. A change counts in the page, from the event of
the slider to the frame that shows the new volume, and is set against the same volumes made by `Generator` alone in
this process; beside it stands the whole command for one volume. Memory is the peak of the program after all changes,
less that of `generate`. The last line is one JSON object; `other_cores` above 0.1 means that something else was
running, and times are too long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from ..engine.generator import Generator
from .chromium import Chromium
from .machine import OtherLoad
from .process import high_water_bytes, run_measured

DRAWN = "document.getElementById('pane-a')?.dataset.drawn"
CHANGE = """new Promise((resolve) => {{
  const pane = document.getElementById('pane-a'), before = pane.dataset.drawn, began = performance.now();
  const watch = new MutationObserver(() => {{
    if (pane.dataset.drawn === before) return;
    watch.disconnect();
    resolve([(performance.now() - began) / 1000, Number(pane.dataset.seconds), Number({given}.value)]);
  }});
  watch.observe(pane, {{ attributes: true }});
  const slider = document.getElementById('condition-volume_ml');
  slider.value = {place};
  slider.dispatchEvent(new Event('input', {{ bubbles: true }}));
}})"""
GIVEN = "document.getElementById('condition-volume_ml-exact')"
SIZES = """performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))
  .filter((one) => !one.name.includes('/api/')).map((one) => one.encodedBodySize)"""


@contextmanager
def studio(bundle: str, options: Sequence[str], log: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The program and the address that it prints."""
    command = [sys.executable, "-m", "sbldm.cli.main", "studio", "--bundle", bundle, "--port", "0", "--no-browser"]
    with log.open("wb") as errors:
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        yield psutil.Process(process.pid), process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def opened(browser: Chromium, bundle: str, options: Sequence[str], log: Path) -> Iterator[tuple[psutil.Process, float]]:
    """The program with its page open, and the seconds from its start to the first drawn volume."""
    began = time.perf_counter()
    with studio(bundle, options, log) as (process, address):
        browser.visit(address)
        browser.until(DRAWN)
        yield process, time.perf_counter() - began
        browser.visit("about:blank")


def measure(bundle: str, starts: int, changes: int, threads: int | None) -> dict[str, float]:
    """Seconds, bytes and cores by name; see the module."""
    options = [] if threads is None else ["--threads", str(threads)]
    firsts, sampled, whole, made, cells = list[float](), list[float](), list[float](), list[float](), list[float]()
    load = OtherLoad()
    with tempfile.TemporaryDirectory() as name, Chromium(Path(name) / "profile", size=(1500, 1087)) as browser:
        log = Path(name) / "log"
        for _ in range(starts - 1):
            with opened(browser, bundle, options, log) as (_, seconds):
                firsts.append(seconds)
        with opened(browser, bundle, options, log) as (process, seconds):
            firsts.append(seconds)
            size = sum(browser.run(SIZES))
            for k in range(changes):
                change = CHANGE.format(given=GIVEN, place=60 + 300 * k // max(changes - 1, 1))
                seconds, of_sampling, volume_ml = browser.run(change)
                whole.append(seconds)
                sampled.append(of_sampling)
                cells.append(volume_ml)
            peak = high_water_bytes(process.pid)
        out = str(Path(name) / "out")
        asked = ["generate", "--bundle", bundle, "--quiet", *options]
        once = run_measured([*asked, "--count", "1", "--out", f"{out}-1"])
        command = run_measured([*asked, "--count", "2", "--out", out])
    with Generator.load(bundle, threads=threads) as generator:
        for volume_ml in cells:
            began = time.perf_counter()
            for sample in generator.generate(conditions=[{"volume_ml": volume_ml}]):
                sample.files()
            made.append(time.perf_counter() - began)
    return {
        "first_volume_s": median(firsts), "change_s": median(whole), "of_it_sampling_s": median(sampled),
        "generate_s": median(made), "change_less_generate_s": median(whole) - median(made),
        "generate_command_s": once.seconds, "page_bytes": size,
        "studio_peak_mb": peak / 1e6, "generate_peak_mb": command.peak_bytes / 1e6,
        "studio_less_generate_mb": (peak - command.peak_bytes) / 1e6, "other_cores": load.cores(),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="glioma")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--threads", type=int, help="CPU threads of the program; default: all")
    given = vars(parser.parse_args(arguments))
    print(json.dumps({name: round(value, 2) for name, value in measure(**given).items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

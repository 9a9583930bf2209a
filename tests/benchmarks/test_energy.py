"""Joules from the counters of processors and GPUs, on a tree that imitates that of Linux."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sbldm.benchmarks import energy, machine
from sbldm.benchmarks.energy import EnergyMeter, Source, cpu_source, gpu_source, open_meter
from sbldm.benchmarks.timing import Run, timed
from sbldm.benchmarks.timing import energy as energy_of

RANGE = 262_143_328_850  # microjoules: 2^32 of 61 microjoules


def zone(folder: Path, name: str, domain: str, microjoules: int) -> Path:
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", domain), ("energy_uj", microjoules), ("max_energy_range_uj", RANGE)):
        (made / file).write_text(f"{text}\n")
    return made


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """A server of one package: what counts, parts of it, and what counts the same again."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 4_000_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    (tmp_path / "intel-rapl").mkdir()  # the control type
    return tmp_path


def set_counter(folder: Path, name: str, microjoules: int) -> None:
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_and_their_memory_are_added_up_and_nothing_twice(powercap: Path) -> None:
    source = cpu_source(powercap)
    assert source.how == "RAPL: package-0, dram"
    meter = EnergyMeter({"cpu": source})
    before = meter.read()
    for name, more in (("intel-rapl:0", 7), ("intel-rapl:0:0", 6), ("intel-rapl:0:1", 2), ("intel-rapl:1", 11)):
        file = powercap / name / "energy_uj"
        file.write_text(str(int(file.read_text()) + more * 10**6))
    assert meter.since(before, 1.0) == {"cpu": pytest.approx(9.0)}


def test_a_counter_that_begins_anew(powercap: Path) -> None:
    set_counter(powercap, "intel-rapl:0", RANGE - 3_000_000)
    meter = EnergyMeter({"cpu": cpu_source(powercap)})
    before = meter.read()
    set_counter(powercap, "intel-rapl:0", 4_000_000)
    assert meter.since(before, 1.0)["cpu"] == pytest.approx(7.0)
    assert meter.since(before, RANGE * 1e-6 / energy.MOST_WATTS + 1) == {}  # it may have begun anew twice


def test_what_cannot_be_read_is_told_and_nothing_is_made_up(
    powercap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = cpu_source(tmp_path / "none")
    assert nothing.how.startswith("not measurable here: no RAPL counter in")
    assert EnergyMeter({"cpu": nothing}).since({}, 1.0) == {}
    set_counter(powercap, "intel-rapl:0:1", 0)
    (powercap / "intel-rapl:0:1" / "max_energy_range_uj").write_text("many\n")
    assert "intel-rapl:0:1: invalid literal" in cpu_source(powercap).how
    read = Path.read_text

    def refused(path: Path, *given: str, **named: str) -> str:
        if path.name == "energy_uj":  # as kernels since 5.10 have it for all but root
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    source = cpu_source(powercap)
    assert source.counters == ()
    assert "intel-rapl:0/energy_uj is readable by root alone" in source.how


def test_counters_that_go_in_the_midst_end_no_benchmark(powercap: Path) -> None:
    meter = EnergyMeter({"cpu": cpu_source(powercap)})
    before = meter.read()
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.since(before, 1.0) == {}
    assert meter.read() == {}


def test_energy_is_that_of_the_quiet_runs(powercap: Path) -> None:
    meter = EnergyMeter({"cpu": cpu_source(powercap), "gpu": Source("not measurable here: no GPU")})
    run = timed(lambda: set_counter(powercap, "intel-rapl:0", 8_000_000), meter)
    assert run.joules == {"cpu": pytest.approx(3.0)}
    runs = [Run(2.0, 0.0, {"cpu": 100.0}), Run(4.0, 0.5, {"cpu": 900.0}), Run(2.0, 0.0, {"cpu": 120.0})]
    found = energy_of(runs, share=0.5)
    assert found.keys() == {"cpu"}
    assert (found["cpu"].joules, found["cpu"].watts) == (55.0, 55.0)
    assert energy_of([Run(2.0, 0.0), Run(2.0, 0.0, {"cpu": 8.0})])["cpu"].watts == 4.0
    assert energy_of([Run(2.0, 0.0)]) == {}


def test_a_gpu_is_asked_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_meter("cpu").how["gpu"] == "not measured: the processor's work was benchmarked"
    assert gpu_source("cuda").how.startswith("not measurable here: ")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert 'pip install "sbldm-engine[energy]"' in gpu_source("cuda").how


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("NVIDIA H200, 143771, 580.65.06\n", machine.Gpu("NVIDIA H200", 140.4, "580.65.06")),
        ("NVIDIA H200, [N/A], 580.65.06\nanother, 1, 2\n", machine.Gpu("NVIDIA H200", None, "580.65.06")),
        ("No devices were found\n", None),
        ("", None),
    ],
    ids=["one", "two", "none", "nothing"],
)
def test_what_nvidia_smi_says_of_a_gpu(
    said: str, expected: machine.Gpu | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.find_gpu("cpu") == expected

"""What is installed: every package, every file that a package reads, nothing of the tests."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import sbldm
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FLOORS = ("benchmarks", "cli", "engine", "export", "kernels", "train")
NOT_SHIPPED = {"benchmarks/results"}  # figures that documents cite
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders() -> list[Path]:
    """Every folder of the source that is a package."""
    return [ROOT, *(file.parent for floor in FLOORS for file in (ROOT / floor).rglob("__init__.py"))]


def dotted(folder: Path) -> str:
    return ".".join(["sbldm", *folder.relative_to(ROOT).parts])


def test_every_package_is_installed_and_no_other() -> None:
    assert sorted(SETTINGS["packages"]) == sorted(dotted(folder) for folder in folders())


def test_every_file_that_is_no_code_is_installed() -> None:
    shipped = {
        file
        for package, patterns in SETTINGS["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
        if file.is_file()
    }
    present = {
        file
        for floor in FLOORS
        for file in (ROOT / floor).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
        if not any(file.is_relative_to(ROOT / name) for name in NOT_SHIPPED)
    }
    assert present - shipped == set()
    assert {file.relative_to(ROOT).parts[0] for file in shipped} <= {*FLOORS, "py.typed"}


def test_the_package_is_typed_and_knows_its_version() -> None:
    assert (ROOT / "py.typed").is_file()
    assert sbldm.__version__ == version("sbldm-engine")


def pinned(file: str) -> dict[str, str]:
    """Versions of a constraints file by distribution."""
    lines = (ROOT / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_packages_for_a_gpu_are_pinned_to_versions_that_the_extra_allows() -> None:
    """The ONNX Runtime is that of the CPU, by which a GPU is judged; nothing is named that needs a compiler."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = pinned("constraints-gpu.txt")
    for text in extras["gpu"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(found[requirement.name])
    assert found["onnxruntime-gpu"] == pinned("constraints.txt")["onnxruntime"]
    assert found["cuda-bindings"] == pinned("constraints.txt")["cuda-bindings"]
    assert not any(name in text for text in extras["gpu"] for name in ("pycuda", "tensorrt"))

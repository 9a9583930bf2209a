"""Tiny networks on a stand-in device, and where its kernels are compiled to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.toy import HostLoopBackend, HostNetworks, Toy


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's kernels are compiled to for the CPU, once."""
    folder = tmp_path_factory.getbasetemp() / "cpu-kernels"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def host_backend() -> type[HostLoopBackend]:
    return HostLoopBackend


@pytest.fixture(scope="session")
def host_networks() -> type[HostNetworks]:
    return HostNetworks

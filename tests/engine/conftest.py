"""Tiny networks on a stand-in device."""

from __future__ import annotations

import pytest

from tests.support.toy import HostLoopBackend, HostNetworks, Toy


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="session")
def host_backend() -> type[HostLoopBackend]:
    return HostLoopBackend


@pytest.fixture(scope="session")
def host_networks() -> type[HostNetworks]:
    return HostNetworks

"""Versions of installed distributions, where the installation keeps them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(distribution: str) -> str | None:
    """The version of a distribution; None where it is not installed, or without its metadata (a bare source tree)."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None

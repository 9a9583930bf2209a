"""Imports of what only an extra of the package installs."""

from __future__ import annotations


class TrainExtra:
    """Around the imports of a command that needs the extra `train`; UsageError names it where something is missing."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from ..engine.errors import UsageError

        if isinstance(error, ImportError):
            raise UsageError(f'{self._command} needs {error.name}: pip install "sbldm-engine[train]"') from error

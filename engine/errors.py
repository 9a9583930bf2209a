"""The errors that a user can cause or meet; each class carries the exit code of the command line."""

from __future__ import annotations


class SbldmError(Exception):
    """Base class of every error with a message meant for the user."""

    exit_code = 1


class UsageError(SbldmError):
    """The options contradict each other, or the output directory cannot be used."""

    exit_code = 2


class InvalidInputError(SbldmError):
    """Conditions, data, a checkpoint or a bundle are not what they must be."""

    exit_code = 3


class BackendUnavailableError(SbldmError):
    """The backend or device that was asked for cannot run here."""

    exit_code = 4


class DeviceMemoryError(BackendUnavailableError, MemoryError):
    """The device, or the machine, has no room for what was asked of it; half the batch may fit."""


class IncompleteRunError(SbldmError):
    """Some samples failed or the disk filled up; what is on disk is complete and the run can be resumed."""

    exit_code = 5

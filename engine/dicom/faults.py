"""What makes DICOM files unusable, and what pydicom raises on damaged ones."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom.errors import BytesLengthException, InvalidDicomError

DAMAGED: tuple[type[Exception], ...] = (
    BytesLengthException, InvalidDicomError, AttributeError, EOFError, IndexError, KeyError, NotImplementedError,
    OSError, OverflowError, RecursionError, RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What pydicom and its decoders raise where content is not what the standard says; a fault of the file, not of ours."""


@contextmanager
def reading() -> Iterator[None]:
    """Without pydicom's warnings of values that the standard does not allow, which print them: a patient's, maybe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class DicomFault(Exception):
    """What is wrong with files, one text a fault."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("; ".join(self.faults))

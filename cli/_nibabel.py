"""nibabel without its reader of DICOM: loading pydicom takes as long as all the rest, and DICOM is read without it."""

from __future__ import annotations

import sys

_READER = "pydicom"


def settle_nibabel() -> None:
    """Import nibabel as where pydicom is missing, unless one of them is there already; pydicom can be imported after.

    For a process that is ours alone, before another thread is started.
    """
    if _READER in sys.modules or "nibabel" in sys.modules:
        return
    sys.modules[_READER] = None  # type: ignore[assignment]  # an import of it raises ImportError
    try:
        import nibabel  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        del sys.modules[_READER]

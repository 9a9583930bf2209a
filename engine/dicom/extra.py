"""The packages that DICOM needs: an extra, so that nobody else has to install them."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import UsageError

PACKAGES = ("pydicom", "highdicom")


def require_dicom() -> None:
    """UsageError where the packages of the extra `dicom` are not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(f'DICOM needs {" and ".join(missing)}: pip install "sbldm-engine[dicom]"')

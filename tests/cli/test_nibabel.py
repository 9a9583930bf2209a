"""nibabel is loaded without pydicom, which then can be loaded all the same."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from sbldm.cli._nibabel import settle_nibabel
settle_nibabel()
assert "nibabel" in sys.modules and "pydicom" not in sys.modules
import pydicom.dataset
settle_nibabel()
assert "pydicom" in sys.modules
"""


def test_nibabel_comes_without_pydicom_which_comes_when_it_is_asked_for() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

"""What we load phones nobody: the usage reporting of every dependency, switched off before any of them is imported.

The package runs `switch_off` when it is imported, so it holds for the command line, for workers and Ray actors, and for
programs that import us. Environment variables reach child processes too.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, read when its library is loaded
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",  # Lightning, Triton's client and whatever else keeps to that convention
}
"""Environment variable and the value that switches a dependency's reporting off."""

REPORTERS = ("openvino_telemetry",)
"""Modules that do nothing but report; what asks for them has a silent stand-in of its own where they are missing."""


def switch_off() -> None:
    """Set `VARIABLES`, whatever they were, and make `REPORTERS` impossible to import.

    A program that imported ONNX Runtime before us without its variable is told in the log: it can no longer be stopped.
    """
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        import logging

        logging.getLogger("sbldm").warning(
            "onnxruntime was imported before sbldm and may send usage data; import sbldm first, or set "
            "ORT_DISABLE_TELEMETRY=1 before the start"
        )
    os.environ.update(VARIABLES)
    for name in REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: an import of it raises ImportError

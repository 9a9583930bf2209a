"""Slice-based latent diffusion for synthetic 3D brain MRI with tumour masks.

import sbldm

with sbldm.load("phantom") as generator:
    for sample in generator.generate(3, seed=1):
        sample.save("samples")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ == "sbldm":  # pytest imports this file by the name of the checkout's folder, which need not be a package's
    from .engine.no_telemetry import switch_off

    switch_off()


if TYPE_CHECKING:
    from .engine.changed_scan import ChangedScan
    from .engine.generator import Generator
    from .engine.sample import Sample
    from .engine.scans.scan import Scan

    __version__: str
    load = Generator.load

__all__ = ["ChangedScan", "Generator", "Sample", "Scan", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for first, so that `import sbldm` is cheap."""
    if name == "__version__":
        from .engine.versions import installed

        return installed("sbldm-engine") or "unknown"
    if name in ("Generator", "load"):
        from .engine.generator import Generator

        return Generator if name == "Generator" else Generator.load
    if name == "Sample":
        from .engine.sample import Sample

        return Sample
    if name == "ChangedScan":
        from .engine.changed_scan import ChangedScan

        return ChangedScan
    if name == "Scan":
        from .engine.scans.scan import Scan

        return Scan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Slice-based latent diffusion for synthetic 3D brain MRI with tumour masks."""

if __name__ == "sbldm":  # pytest imports this file by the name of the checkout's folder, which need not be a package's
    from .engine.no_telemetry import switch_off

    switch_off()


def __getattr__(name: str) -> str:
    if name == "__version__":
        from .engine.versions import installed

        return installed("sbldm-engine") or "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

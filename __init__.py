"""Slice-based latent diffusion for synthetic 3D brain MRI with tumour masks."""

from .engine.no_telemetry import switch_off

switch_off()

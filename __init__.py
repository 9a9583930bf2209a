"""Slice-based latent diffusion for synthetic 3D brain MRI with tumour masks."""

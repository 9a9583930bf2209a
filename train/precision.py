"""In which arithmetic networks are trained and sampled: bfloat16, but float32 on processors that would emulate it.

A step of the segmenter takes such a processor nine times as long in bfloat16 as in float32.
"""

from __future__ import annotations

import logging

import torch

from ..engine.errors import UsageError
from ..engine.processor import has_bf16

AUTO, MIXED, SINGLE = "auto", "bf16-mixed", "32-true"
PRECISIONS = (AUTO, MIXED, SINGLE, "16-mixed")  # all but AUTO are Lightning's names

log = logging.getLogger(__name__)


def reduced_type(device: torch.device | str) -> torch.dtype | None:
    """Type of products and convolutions on a device; None: float32."""
    return torch.bfloat16 if torch.device(device).type != "cpu" or has_bf16() else None


def reduced_products(device: torch.device | str) -> torch.autocast:
    """Within it, products and convolutions on a device are of `reduced_type`."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=reduced_type(device) is not None)


def training_precision(asked: str) -> str:
    """Lightning's name of the arithmetic that a training takes here.

    Raises:
        UsageError: none of `PRECISIONS`.
    """
    if asked not in PRECISIONS:
        raise UsageError(f"--precision {asked}: allowed {', '.join(PRECISIONS)}")
    fast = torch.accelerator.is_available() or has_bf16()
    if asked == MIXED and not fast:
        log.warning("--precision %s: this processor emulates bfloat16; %s is several times faster", MIXED, SINGLE)
    if asked == AUTO:
        return MIXED if fast else SINGLE
    return asked

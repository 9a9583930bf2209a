"""Labels as the classes of a system."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..config import SystemConfig


def class_labels(label: NDArray[np.uint8], config: SystemConfig) -> NDArray[np.int64]:
    """Labels as the system's classes: all tumour is one class where it has a single tissue."""
    wide = np.asarray(label, np.int64)
    return (wide > 0).astype(np.int64) if config.classes == 2 else wide


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Label (S, X, Y) int64 -> (S, L, X, Y) float32."""
    return F.one_hot(label, classes).movedim(-1, 1).float()

"""PyTorch networks behind the call by which the engine's loops compute components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.bundle.manifest import COMPONENT_OUTPUTS, Form


class TorchComponents:
    """Host arrays in, host arrays out.

    Args:
        modules: component -> what takes its inputs by name and returns its outputs in the manifest's order.
        device: that the modules are on.
        autocast: type of products and convolutions; None: float32.
        form: of the system that the modules belong to.
    """

    def __init__(
        self,
        modules: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]],
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        form: Form = "slices",
    ) -> None:
        self.modules, self.device, self.autocast = modules, torch.device(device), autocast
        self.outputs = COMPONENT_OUTPUTS[form]

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name."""
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)).to(self.device) for k, v in inputs.items()}
        reduced = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.inference_mode(), reduced:
            made = self.modules[component](**tensors)
        values = made if isinstance(made, tuple) else (made,)
        return {n: v.float().cpu().numpy() for n, v in zip(self.outputs[component], values, strict=True)}

"""Moving averages of a stage's weights, and which of them does best on held-out cases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

HeldOut = Callable[[nn.Module], Mapping[str, float]]  # EMA -> `held_out_loss` and other figures on held-out cases
SHORTER = (4, 16)  # times shorter than the preset's average are those beside it, where the best is chosen


class Averages:
    """Exponential moving averages of a module's weights; the first is the preset's, the others are shorter."""

    def __init__(self, module: nn.Module, decay: float, *, several: bool) -> None:
        shorter = [max(0.0, 1 - times * (1 - decay)) for times in SHORTER] if several else []
        self.modules = {d: copy.deepcopy(module).requires_grad_(False).eval() for d in (decay, *shorter)}

    @property
    def usual(self) -> nn.Module:
        """That of the preset's decay."""
        return next(iter(self.modules.values()))

    def to(self, device: torch.device) -> None:
        """Move all of them."""
        for ema in self.modules.values():
            ema.to(device)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move their parameters towards those of `module`, faster in the first steps; buffers are taken over."""
        parameters = [*module.parameters()]
        for decay, ema in self.modules.items():
            get_ema_multi_avg_fn(min(decay, (step + 1) / (step + 10)))([*ema.parameters()], parameters, 0)
            for target, source in zip(ema.buffers(), module.buffers(), strict=True):
                target.copy_(source)

    def state(self) -> dict[str, Tensor]:
        """Their tensors by name: `ema.` those of the first, `ema1.` of the next, and so on."""
        return {
            f"{prefix}{name}": tensor for prefix, ema in self._prefixed() for name, tensor in ema.state_dict().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `state` gave; an average that was not kept begins as the first one.

        Raises:
            RuntimeError: the tensors do not fit.
        """
        for prefix, ema in self._prefixed():
            found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            ema.load_state_dict(found or self.usual.state_dict())

    def looked_at(self, held_out: HeldOut) -> tuple[dict[str, float], float, float]:
        """Figures of all averages on held-out cases, and decay and loss of the best."""
        figures = dict(held_out(self.usual))
        losses = {}
        for decay, ema in self.modules.items():
            losses[decay] = figures["held_out_loss"] if ema is self.usual else held_out(ema)["held_out_loss"]
            if ema is not self.usual:
                figures[f"held_out_loss_ema_{decay:g}"] = losses[decay]
        best = min(losses, key=lambda decay: losses[decay])
        return figures, best, losses[best]

    def _prefixed(self) -> list[tuple[str, nn.Module]]:
        return [(f"ema{number or ''}.", ema) for number, ema in enumerate(self.modules.values())]

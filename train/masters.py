"""Training in 16-bit weights with 32-bit masters: what a CPU with bfloat16 arithmetic does fastest."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MasterWeights:
    """A module whose parameters are bfloat16 and channels-last, and its float32 twin, which the optimiser moves.

    Buffers stay float32. The twin's parameters are what is saved and averaged.
    """

    def __init__(self, master: nn.Module) -> None:
        self.master = master
        self.working = copy.deepcopy(master)
        for parameter in self.working.parameters():
            half = parameter.detach().to(torch.bfloat16)
            parameter.data = half.to(memory_format=torch.channels_last) if half.dim() == 4 else half
        self.pairs = list(zip(master.parameters(), self.working.parameters(), strict=True))

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Add the working gradients to the masters' as float32."""
        for master, working in self.pairs:
            if working.grad is not None:
                found = working.grad.to(torch.float32)
                master.grad = found if master.grad is None else master.grad.add_(found)
            working.grad = None

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round the masters into the working parameters."""
        for master, working in self.pairs:
            working.copy_(master)

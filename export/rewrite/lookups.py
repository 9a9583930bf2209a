"""Embeddings of whole numbers as tables, and the ellipsoid map in parts that bfloat16 holds.

Runtimes that compute an fp32 graph in bfloat16 of their own accord (OpenVINO on processors that have it) keep 8 bits of
everything behind the inputs: time step 999 becomes 1000, its sinusoids those of another step, and the distance to a
tumour's centre cancels. The modules here give the same in fp32, and in bfloat16 lose little more than the rounding of
their results; the time embedding of every step is computed once, when the graph is exported.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...train.networks.denoiser import EllipsoidMap, TimeEmbedding
from ...train.networks.slice_vae import PositionEmbedding

DIGIT = 32.0  # base in which a time step has two digits, both exact in bfloat16 (whole numbers to 256 are)
COARSE = 64  # coarse places are multiples of 1/64: exact in bfloat16 up to 4, and so are their distances to the axes


class PositionLookup(nn.Module):
    """Position (S,) int64 -> row of a table (D, E)."""

    def __init__(self, embedding: nn.Module, depth: int) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", _rows(embedding, torch.arange(depth)))

    def forward(self, position: Tensor) -> Tensor:
        return nn.functional.embedding(position, self.table)


class TimeLookup(nn.Module):
    """Time step (N,) float -> row of a table (T, E); the nearest whole step within 0..T - 1.

    Split into two digits before it becomes an integer: an elementwise operation on an input of the graph still sees
    fp32 in OpenVINO's bfloat16, the conversion does not.
    """

    def __init__(self, embedding: nn.Module, steps: int) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", _rows(embedding, torch.arange(steps, dtype=torch.float32)))

    def forward(self, timestep: Tensor) -> Tensor:
        high = torch.floor(timestep / DIGIT).clamp(min=0.0)
        low = (timestep - high * DIGIT).round().clamp(0.0, DIGIT)
        index = high.long() * int(DIGIT) + low.long()
        return nn.functional.embedding(index.clamp(max=len(self.table) - 1), self.table)


class SplitEllipsoidMap(EllipsoidMap):
    """An ellipsoid map whose centre comes as a coarse place and the rest, so that distances do not cancel."""

    def __init__(self, source: EllipsoidMap, columns: int) -> None:
        nn.Module.__init__(self)
        self.picks, self.shells, self.sharpness = source.picks, source.shells, source.sharpness
        for name in ("axis_x", "axis_y", "axis_z"):
            self.register_buffer(name, getattr(source, name))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(columns).index_copy(0, torch.tensor(self.picks), source.column_mean))
        self.register_buffer("std", torch.zeros(columns).index_copy(0, torch.tensor(self.picks), source.column_std))

    def forward(self, condition: Tensor, mask: Tensor) -> Tensor:
        coarse = torch.round(condition * (self.std * COARSE) + self.mean * COARSE) / COARSE
        beyond = (condition * self.std + self.mean - coarse)[:, self.picks]
        coarse = coarse[:, self.picks]
        distances = [
            (axis[None] - coarse[:, i, None]) - beyond[:, i, None]
            for i, axis in enumerate((self.axis_x, self.axis_y, self.axis_z))
        ]
        sizes = (coarse + beyond)[:, 3:]
        return self.draw(distances, sizes[:, :3], sizes[:, 3:], mask)


def with_lookups(network: nn.Module, depth: int, steps: int, columns: int) -> nn.Module:
    """A copy of a network whose embeddings of positions and time steps are tables, and its ellipsoid map split.

    Args:
        network: encoder, decoder, denoiser or a module around one of them.
        depth: slices of a volume.
        steps: training steps of the schedule.
        columns: of the condition.
    """
    made = copy.deepcopy(network)
    for name, child in network.named_modules():
        if isinstance(child, PositionEmbedding):
            made.set_submodule(name, PositionLookup(child, depth))
        elif isinstance(child, TimeEmbedding):
            made.set_submodule(name, TimeLookup(child, steps))
        elif isinstance(child, EllipsoidMap):
            made.set_submodule(name, SplitEllipsoidMap(child, columns))
    return made


@torch.no_grad()
def _rows(embedding: nn.Module, values: Tensor) -> Tensor:
    return embedding(values)

"""Weights rounded to fp16 before an export that stores them so, and what the rounding does to the networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..engine.bundle.manifest import Form
from ..engine.errors import InvalidInputError
from .cases import random_cases
from .components import Component
from .parity import RMS_LIMIT, Figure, compare
from .rewrite.precision import STORED_AS_FP16_FROM
from .runners import torch_runner


def round_weights_to_fp16(networks: Mapping[str, nn.Module]) -> None:
    """Round every large tensor of the networks to fp16 precision in place; they stay float32.

    Raises:
        InvalidInputError: a weight is beyond fp16's range.
    """
    for network, module in networks.items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.dtype != torch.float32 or tensor.numel() < STORED_AS_FP16_FROM:
                continue
            rounded = tensor.data.half().float()
            if not torch.isfinite(rounded).all():
                raise InvalidInputError(f"{network}.{name} reaches beyond fp16's range; export with --store fp32")
            tensor.data.copy_(rounded)


def rounding_figures(
    trained: Mapping[str, Component], rounded: Mapping[str, Component], depth: int, steps: int, form: Form
) -> tuple[Figure, ...]:
    """How far the rounded networks are from the trained ones on random inputs; the limit is that of fp16 graphs.

    Args:
        trained: components of the networks as they were trained.
        rounded: of the same, rounded.
        depth: slices of a volume.
        steps: training steps of the schedule.
        form: of the system.
    """
    figures: list[Figure] = []
    before, after = torch_runner(trained, form).run, torch_runner(rounded, form).run
    for name, component in trained.items():
        for case, inputs in random_cases(component, depth, steps).items():
            expected, got = before(name, inputs), after(name, inputs)
            figures += [
                Figure(name, spec.name, case, *compare(expected[spec.name], got[spec.name], RMS_LIMIT["fp16"]))
                for spec in component.outputs
            ]
    return tuple(figures)

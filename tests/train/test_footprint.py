"""Multiply-adds and memory against counts by hand."""

from __future__ import annotations

import pytest
import torch
from sbldm.engine.conditions.columns import ConditionColumn
from sbldm.train.build import make_refiner
from sbldm.train.footprint import gmac_of, network_costs, saved_bytes, stage_memory
from sbldm.train.latents import condition_names
from torch import nn

from tests.support.tiny import tiny_system_config


def test_one_convolution_by_hand() -> None:
    with torch.device("meta"):
        layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.empty(2, 3, 8, 7)
        assert gmac_of(lambda: layer(x)) == 2 * 5 * 8 * 7 * (3 * 3 * 3) / 1e9
        assert saved_bytes(lambda: layer(x), layer) == 4 * x.numel()  # the input; weights are not counted
        two = nn.Sequential(layer, nn.SiLU())
        assert saved_bytes(lambda: two(x), two) == 4 * (x.numel() + 2 * 5 * 8 * 7)


def test_a_tensor_that_two_layers_keep_counts_once() -> None:
    with torch.device("meta"):
        layers, x = nn.ModuleList([nn.Conv2d(3, 5, 3), nn.Conv2d(3, 4, 3)]), torch.empty(1, 3, 8, 8)
        assert saved_bytes(lambda: [layer(x) for layer in layers], layers) == 4 * x.numel()


@pytest.mark.parametrize("preset", ["phantom", "isbi2024", "cmig2025"])
def test_every_network_and_stage_of_a_tiny_system(preset: str) -> None:
    config = tiny_system_config(preset)
    columns = [ConditionColumn(name, False, 0.0, 1.0) for name in condition_names(config)]
    costs = {cost.name: cost for cost in network_costs(config, columns)}
    assert ("refiner" in costs) == (config.refiner is not None)
    for cost in costs.values():
        assert (cost.gmac > 0) == (cost.parameters > 0), cost.name
    if config.refiner is not None:
        assert costs["refiner"].parameters == sum(p.numel() for p in make_refiner(config).parameters())
    for stage in config.stages:
        memory = stage_memory(config, stage, columns)
        trains = not (stage == "aggregator" and config.aggregator.kind == "stack")
        assert (memory.weights > 0) == (memory.activations > 0) == trains
    assert stage_memory(config, "denoiser", columns).weights == 5 * 4 * costs["denoiser"].parameters

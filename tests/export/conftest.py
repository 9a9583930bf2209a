"""Graphs of reduced-width presets, exported once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from sbldm.export.components import Component, components_of
from sbldm.export.onnx_graph import export_graph
from sbldm.train.checkpoint import load_system
from sbldm.train.config import SystemConfig
from sbldm.train.trained import load_networks

from tests.conftest import write_tiny_checkpoint


@dataclass(frozen=True)
class ExportedPreset:
    """A preset's components with their fp32 graphs."""

    config: SystemConfig
    components: dict[str, Component]
    models: dict[str, onnx.ModelProto]


@pytest.fixture(scope="session", params=["phantom", "isbi2024", "cmig2025"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExportedPreset:
    """All components of a preset with reduced widths, opset 22 (which carries every precision)."""
    torch.set_num_threads(1)  # faster at these sizes
    folder = Path(tmp_path_factory.mktemp(request.param))
    checkpoint = write_tiny_checkpoint(folder / "checkpoint", request.param)
    config = load_system(checkpoint)
    components = components_of(config, load_networks(checkpoint, config))
    depth = config.grid.shape[2]
    models = {name: export_graph(component, depth, opset=22) for name, component in components.items()}
    return ExportedPreset(config, components, models)

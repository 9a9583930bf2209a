"""Graphs of reduced-width presets, exported once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from sbldm.engine.bundle.manifest import BundleManifest
from sbldm.export.bundle import ExportOptions, bundle_manifest, system_networks
from sbldm.export.components import Component, components_of
from sbldm.export.runners import torch_runner
from sbldm.train.checkpoint import load_system
from sbldm.train.config import AnySystem, MaskFirstConfig
from sbldm.train.torch_components import TorchComponents

from tests.conftest import TRACED_OPSET, Trace
from tests.support.tiny import write_tiny_checkpoint
from tests.support.tiny_mask_first import write_tiny_mask_first


@dataclass(frozen=True)
class ExportedPreset:
    """A preset's components with their fp32 graphs."""

    config: AnySystem
    manifest: BundleManifest
    components: dict[str, Component]
    models: dict[str, onnx.ModelProto]

    @property
    def networks(self) -> TorchComponents:
        """What computes the components in PyTorch."""
        return torch_runner(self.components, self.manifest.form)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of what the gate takes of a real case, without the batch axis."""
        if isinstance(self.config, MaskFirstConfig):
            return self.config.latent_shape
        return self.config.grid.shape[2], *self.config.slice_shape


@pytest.fixture(scope="session", params=["phantom", "isbi2024", "cmig2025", "glioma"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> ExportedPreset:
    """All components of a preset with reduced widths."""
    folder = Path(tmp_path_factory.mktemp(request.param))
    if request.param == "glioma":
        checkpoint = write_tiny_mask_first(folder / "checkpoint")
    else:
        checkpoint = write_tiny_checkpoint(folder / "checkpoint", request.param)
    config = load_system(checkpoint)
    networks = system_networks(checkpoint, config)
    components = components_of(config, networks)
    manifest = bundle_manifest(checkpoint, config, components, networks, ExportOptions(), opset=TRACED_OPSET)
    depth = config.grid.shape[2]
    models = {name: trace(component, depth, TRACED_OPSET) for name, component in components.items()}
    return ExportedPreset(config, manifest, components, models)

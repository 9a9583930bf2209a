"""The components of a system as modules with exactly the inputs and outputs of their ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..engine.bundle.manifest import TensorSpec
from ..engine.bundle.mask_first import BATCH, mask_first_tensors
from ..engine.conditions.columns import COLUMNS
from ..train.build import system_latent_shape
from ..train.config import AnySystem, MaskFirstConfig, SystemConfig
from ..train.latents import condition_names
from .rewrite.lookups import with_lookups


@dataclass(frozen=True)
class Component:
    """A graph to be: its module and its tensors, axis 0 of each the batch."""

    name: str
    module: nn.Module  # what the graph is held to
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rewrite: Callable[[nn.Module], nn.Module] | None = None  # module -> an equal one that the graph is made of


class _EncoderMean(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, label: Tensor, position: Tensor) -> Tensor:
        return self.encoder(image, label, position)[0]


class _AggregatorEncode(nn.Module):
    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, slices: Tensor) -> Tensor:
        return self.aggregator.encode(slices)  # pyright: ignore[reportCallIssue]


class _FeaturesEncode(nn.Module):
    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, features: Tensor) -> Tensor:
        return self.aggregator.encode(features)  # pyright: ignore[reportCallIssue]


class _AggregatorDecode(nn.Module):
    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, latent: Tensor) -> Tensor:
        return self.aggregator.decode(latent)  # pyright: ignore[reportCallIssue]


def components_of(config: AnySystem, networks: Mapping[str, nn.Module]) -> dict[str, Component]:
    """Every component of a system in the order of `engine.bundle.COMPONENT_OUTPUTS`.

    Args:
        config: the system.
        networks: from `train.trained.load_networks` or `train.mask_first.load_mask_first`.
    """
    if isinstance(config, MaskFirstConfig):
        return _mask_first_components(config, networks)
    return _slice_components(config, networks)


def _mask_first_components(config: MaskFirstConfig, networks: Mapping[str, nn.Module]) -> dict[str, Component]:
    tensors = mask_first_tensors(
        config.grid,
        len(config.modalities),
        config.autoencoder.slices,
        config.latent_shape,
        config.maps_shape,
        config.features_shape,
    )
    aggregator = networks["aggregator"]
    modules = {
        **networks,
        "aggregator_encode": _FeaturesEncode(aggregator),
        "aggregator": _AggregatorDecode(aggregator),
    }
    rewrite = partial(with_lookups, depth=config.grid.shape[2], steps=config.schedule.steps, columns=len(COLUMNS))
    return {
        name: Component(name, modules[name], inputs, outputs, rewrite if name.endswith("denoiser") else None)
        for name, (inputs, outputs) in tensors.items()
        if name in modules
    }


def _slice_components(config: SystemConfig, networks: Mapping[str, nn.Module]) -> dict[str, Component]:
    x, y, depth = config.grid.shape
    modalities, classes = len(config.modalities), config.classes
    slice_latent, volume_latent = config.slice_shape, system_latent_shape(config)
    image, label = _float("image", modalities, x, y), _float("label", classes, x, y)
    position = TensorSpec("position", (BATCH,), "int64")
    stack = _float("slices", depth, *slice_latent)
    columns = len(condition_names(config))
    rewrite = partial(with_lookups, depth=depth, steps=config.schedule.steps, columns=columns)
    components = [
        Component(
            "encoder",
            _EncoderMean(networks["encoder"]),
            (image, label, position),
            (_float("latent", *slice_latent),),
            rewrite,
        ),
        Component(
            "aggregator_encode",
            _AggregatorEncode(networks["aggregator"]),
            (stack,),
            (_float("latent", *volume_latent),),
        ),
        Component(
            "denoiser",
            networks["denoiser"],
            (
                _float("sample", *volume_latent),
                _float("timestep"),
                _float("condition", columns),
                _float("condition_mask"),
            ),
            (_float("prediction", *volume_latent),),
            rewrite,
        ),
        Component(
            "aggregator",
            _AggregatorDecode(networks["aggregator"]),
            (_float("latent", *volume_latent),),
            (stack,),
        ),
        Component(
            "decoder",
            networks["decoder"],
            (_float("latent", *slice_latent), position),
            (image, _float("label_logits", classes, x, y)),
            rewrite,
        ),
    ]
    if "refiner" in networks:
        volume = _float("image", depth, modalities, x, y)
        volume_label = _float("label", depth, classes, x, y)
        refined = _float("refined", *volume.shape[1:])
        components.append(Component("refiner", networks["refiner"], (volume, volume_label), (refined,)))
    return {component.name: component for component in components}


def random_inputs(component: Component, batch: int, seed: int, depth: int, steps: int = 1000) -> dict[str, Tensor]:
    """Inputs as the component meets them: noise for latents, one-hot labels, images in [-1, 1], whole indices.

    What is 0 or 1 for a sample alternates: the mask of the condition begins with 1, the source too.

    Args:
        component: whose inputs.
        batch: size of axis 0.
        seed: of the generator.
        depth: number of slices, the bound of `position`.
        steps: training steps of the schedule, the bound of `timestep`.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for spec in component.inputs:
        shape = (batch, *(int(n) for n in spec.shape[1:]))
        if spec.name == "position":
            made[spec.name] = torch.arange(batch, dtype=torch.int64) * 7 % depth
        elif spec.name == "timestep":
            made[spec.name] = torch.linspace(0, steps - 1, batch).round()
        elif spec.name in ("condition_mask", "source"):
            made[spec.name] = (torch.arange(batch) % 2 == 0).float()
        elif spec.name == "tissues":
            index = torch.randint(0, 1 + shape[1], (batch, 1, *shape[2:]), generator=generator)
            made[spec.name] = (index == torch.arange(1, 1 + shape[1])[:, None, None, None]).float()
        elif spec.name == "label":
            classes = shape[-3]
            index = torch.randint(0, classes, (*shape[:-3], *shape[-2:]), generator=generator)
            made[spec.name] = nn.functional.one_hot(index, classes).movedim(-1, -3).float().contiguous()
        elif spec.name == "image":
            made[spec.name] = torch.rand(shape, generator=generator) * 2 - 1
        else:
            made[spec.name] = torch.randn(shape, generator=generator)
    return made


def _float(name: str, *tail: int | str) -> TensorSpec:
    return TensorSpec(name, (BATCH, *tail), "float32")

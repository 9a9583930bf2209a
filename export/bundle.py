"""Training directory -> bundle: graphs, parity gate, manifest; the directory appears whole or not at all."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn

from ..engine.anatomy.anatomies import anatomies_sha256
from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.checks import CHECKS_NAME, ROWS, check_inputs, elements
from ..engine.bundle.load import (
    FP32_COMPONENTS,
    Bundle,
    load_bundle,
    provenance_date,
    record_files,
    reduced_graph_name,
)
from ..engine.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    BundleManifest,
    ComponentSpec,
    Form,
    LatentSpec,
    MaskFirst,
    MaskMaps,
    Provenance,
    manifest_bytes,
)
from ..engine.bundle.report import PARITY_NAME
from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from ..engine.processor import available_threads
from ..engine.sampling.types import RunComponent
from ..train.build import system_latent_shape
from ..train.checkpoint import STAGES, load_system, weights_path
from ..train.condition_file import load_conditions
from ..train.config import AnySystem, MaskFirstConfig
from ..train.diffusion import make_schedule
from ..train.drafts import load_levels
from ..train.grain import load_grain
from ..train.lineage import lineage_faults, read_record, was_trained
from ..train.mask_first import load_mask_first
from ..train.mask_set import load_map_scale
from ..train.trained import load_networks
from ..train.volume_latents import FOLDER
from .components import Component, components_of
from .fitted_steps import with_fitted_steps
from .gate import GateInputs, require_passed, run_gate
from .model_card import model_card
from .onnx_graph import DEFAULT_OPSET, check_opset, export_graph, save
from .parity import Figure
from .plausibility import decodable_latents, latent_faults
from .reconstruction import reconstruction_faults
from .rewrite.group_norm import write_out_group_norm
from .rewrite.precision import PRECISIONS, Precision, reduce_precision, store_weights_as_fp16
from .rewrite.winograd import save_beside, write_fast_graph
from .rounding import round_weights_to_fp16, rounding_figures
from .runners import torch_runner
from .samples import sample_faults, shipped_judge
from .staging import require_free, staged_directory

INTENDED_USE = (
    "Research: synthetic training and test data for segmentation and image analysis, teaching, software tests. "
    "Check what you train with it on real data."
)
Storage = Literal["fp32", "fp16"]
Source = Literal["real", "phantom"]


@dataclass(frozen=True)
class ExportOptions:
    """How to export, and what the bundle says of itself."""

    precision: Precision = "fp32"  # 16 bits: of graphs for GPUs beside the fp32 ones
    opset: int | None = None  # None: the lowest that carries the precision
    store: Storage = (
        "fp32"  # type that weights are kept in on disk; fp16 halves the bundle, the model is the rounded one
    )
    identifier: str | None = None  # None: preset and the first letters of the weights' hash
    data: str = "not stated"
    licence: str = "not stated"
    intended_use: str = INTENDED_USE
    background_threshold: float = 0.02  # 0..1 of the normalised intensity
    source: Source = "real"  # what a mask-first model's samples are drawn as
    force: bool = False  # export stages that do not fit each other, and say so in the card
    fit_steps: bool = False  # fit few steps to many, which become the default


def export_bundle(
    checkpoint: Path,
    out: Path,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Bundle:
    """Export a training directory and hold the result to its networks.

    Args:
        checkpoint: directory of `sbldm-engine train`.
        out: bundle directory to make; must not exist or be empty.
        options: precision and description.
        progress: told what is being done.

    Raises:
        InvalidInputError: the checkpoint is incomplete or of another version, its stages do not belong together, an
            option does not fit, or the parity gate failed (the message is its table). Nothing is left behind.
        UsageError: `out` holds files or cannot be written.
    """
    options = options or ExportOptions()
    opset = _opset(options)
    require_free(out)
    config = load_system(checkpoint)
    networks = system_networks(checkpoint, config)
    accepted = held_together(checkpoint, config, networks, options.force)
    components = components_of(config, networks)
    rounding: tuple[Figure, ...] = ()
    if options.store == "fp16":
        components, rounding = _rounded(config, networks)
    models: dict[str, onnx.ModelProto] = {}
    reduced: dict[str, onnx.ModelProto] = {}
    for name, component in components.items():
        progress(f"exporting {name}")
        plain = export_graph(component, config.grid.shape[2], opset)
        models[name] = store_weights_as_fp16(plain) if options.store == "fp16" else plain
        if options.precision != "fp32" and name not in FP32_COMPONENTS:
            reduced[name] = reduce_precision(write_out_group_norm(plain), options.precision)
    manifest = bundle_manifest(checkpoint, config, components, networks, options, opset)
    inputs = GateInputs(config, manifest, decodable_latents(checkpoint, config, 1))
    with staged_directory(out) as staging:
        _write_graphs(staging, manifest, models)
        for name, model in reduced.items():
            plain = staging / manifest.components[name].file
            save_beside(model, plain.with_name(reduced_graph_name(plain.name, options.precision)), plain)
        save_file(_checks(components, manifest), staging / CHECKS_NAME)
        made = _record_files(staging, manifest)
        engine = _engine(made)
        parity = run_gate(components, models, inputs, "fp32", progress, engine)
        parity = dataclasses.replace(parity, rounding=rounding)
        require_passed(parity)
        if reduced:
            progress(f"the gate in {options.precision}")
            parity = dataclasses.replace(
                parity, reduced=run_gate(components, models | reduced, inputs, options.precision, progress)
            )
            require_passed(parity)
        if options.fit_steps:
            manifest = with_fitted_steps(engine, manifest, progress)
        if was_trained(checkpoint):
            progress("reconstructions and samples")
            faults = reconstruction_faults(checkpoint, config, engine)
            faults += sample_faults(engine, manifest, shipped_judge(checkpoint, manifest))
            accepted += accepted_faults(checkpoint, faults, options.force)
        (staging / PARITY_NAME).write_text(json.dumps(parity.to_json(), indent=1, allow_nan=False) + "\n")
        (staging / "README.md").write_text(model_card(manifest, parity, accepted), encoding="utf-8")
        _record_files(staging, manifest)
    return load_bundle(out)


def _opset(options: ExportOptions) -> int:
    """The opset that the options mean; InvalidInputError where they do not fit each other."""
    if options.precision not in PRECISIONS:
        raise InvalidInputError(f"precision {options.precision!r}: allowed {', '.join(PRECISIONS)}")
    if options.store == "fp16" and options.precision == "bf16":
        raise InvalidInputError("store fp16 keeps fp32 weights as fp16; a bf16 bundle stores bf16 weights already")
    opset = options.opset or DEFAULT_OPSET[options.precision]
    check_opset(opset, options.precision)
    return opset


def system_networks(checkpoint: Path, config: AnySystem) -> dict[str, nn.Module]:
    """The trained networks of a directory of either form, in evaluation mode.

    Raises:
        InvalidInputError: a stage is missing or does not fit.
    """
    if isinstance(config, MaskFirstConfig):
        return load_mask_first(checkpoint, config)
    return load_networks(checkpoint, config)


def held_together(checkpoint: Path, config: AnySystem, networks: Mapping[str, nn.Module], force: bool) -> list[str]:
    """Hold the stages of a training directory to each other; what is wrong and accepted by `force`.

    Raises:
        InvalidInputError: they are not one system, without `force`; all faults are named.
    """
    faults = lineage_faults(checkpoint, config) + latent_faults(checkpoint, config, networks)
    return accepted_faults(checkpoint, faults, force)


def accepted_faults(checkpoint: Path, faults: list[str], force: bool) -> list[str]:
    """The faults, which `force` accepts.

    Raises:
        InvalidInputError: there are some, without `force`; all are named.
    """
    if faults and not force:
        raise InvalidInputError(
            "\n".join(f"{checkpoint}: {fault}" for fault in faults)
            + "\nrefused: mend it (the train command makes what is out of date again), or give --force, which writes "
            "this into the model card"
        )
    return faults


def _rounded(config: AnySystem, networks: Mapping[str, nn.Module]) -> tuple[dict[str, Component], tuple[Figure, ...]]:
    """Components of the networks with their weights rounded to fp16, and how far that is from the trained ones."""
    kept = {name: copy.deepcopy(network) for name, network in networks.items()}
    round_weights_to_fp16(networks)
    trained, rounded = components_of(config, kept), components_of(config, networks)
    return rounded, rounding_figures(trained, rounded, config.grid.shape[2], config.schedule.steps, form_of(config))


def form_of(config: AnySystem) -> Form:
    """The form of a system's bundle."""
    return "mask-first" if isinstance(config, MaskFirstConfig) else "slices"


def bundle_manifest(
    checkpoint: Path,
    config: AnySystem,
    components: Mapping[str, Component],
    networks: Mapping[str, nn.Module],
    options: ExportOptions,
    opset: int,
) -> BundleManifest:
    """The manifest of the bundle to be, its files not yet recorded."""
    columns, cohort = load_conditions(checkpoint)
    stages = [stage for stage in STAGES if weights_path(checkpoint, stage).is_file()]
    digest = hashlib.sha256()
    for stage in stages:
        digest.update(weights_path(checkpoint, stage).read_bytes())
    mask_first = mask_first_of(checkpoint, config, options.source)
    scale = networks["aggregator"].get_buffer("normalisation.scale" if mask_first is None else "scale")
    return BundleManifest(
        schema_version=SCHEMA_VERSION,
        form=form_of(config),
        id=options.identifier or f"{config.preset}-{digest.hexdigest()[:12]}",
        preset=config.preset,
        grid=config.grid,
        modalities=config.modalities,
        labels=("background", *config.tissues),
        background_threshold=options.background_threshold,
        latent=LatentSpec(
            system_latent_shape(config),
            tuple(float(value) for value in scale.flatten()),
            "the mean training latent of each position, inside the aggregator graphs",
        ),
        schedule=make_schedule(config.schedule),
        defaults=config.sampling,
        mask_first=mask_first,
        condition_columns=columns,
        cohort=cohort,
        components={
            name: ComponentSpec(f"{name}.onnx", component.inputs, component.outputs)
            for name, component in components.items()
        },
        files={},
        opset=opset,
        precision="fp32",
        provenance=Provenance(
            data=options.data,
            training=training_summary(checkpoint, config),
            code_version=version("sbldm-engine"),
            date=provenance_date(),
            licence=options.licence,
        ),
        intended_use=options.intended_use,
    )


def mask_first_of(checkpoint: Path, config: AnySystem, source: Source) -> MaskFirst | None:
    """What only the mask-first form says; None for a system of slices.

    Raises:
        InvalidInputError: the normalisation of the maps, the levels of the drafts, or the grain, is not there.
    """
    if not isinstance(config, MaskFirstConfig):
        return None
    scale = load_map_scale(checkpoint)
    maps = MaskMaps(config.maps_shape, scale.mean, scale.std)
    drawn_as = 1.0 if source == "real" else 0.0
    levels, grain = load_levels(checkpoint / FOLDER), load_grain(checkpoint / FOLDER)
    return MaskFirst(config.autoencoder.slices, maps, config.mask_sampling, drawn_as, levels, anatomies_sha256(), grain)


def training_summary(checkpoint: Path, config: AnySystem) -> str:
    """The chain of stages as text: each one's steps and weights, and the cohort's digest."""
    parts = []
    cohort = None
    for stage in STAGES:
        if not weights_path(checkpoint, stage).is_file():
            continue
        record = read_record(checkpoint, stage)
        if record is None:
            parts.append(f"{stage} without a record of training")
            continue
        wanted, cohort = config.stages[stage].steps, record.cohort or cohort
        steps = f"{record.step} of {wanted} steps" if record.step < wanted else f"{record.step} steps"
        weights = record.weights or sha256_file(weights_path(checkpoint, stage))
        parts.append(f"{stage} {steps} (weights {weights[:12]}, sbldm-engine {record.code_version})")
    return ", ".join(parts) + (f"; cohort {cohort[:12]}" if cohort else "")


def _write_graphs(staging: Path, manifest: BundleManifest, models: Mapping[str, onnx.ModelProto]) -> None:
    for name, model in models.items():
        plain = staging / manifest.components[name].file
        save(model, plain)
        write_fast_graph(model, plain)


def _record_files(staging: Path, manifest: BundleManifest) -> Bundle:
    """Write the manifest with what lies there now, and read the bundle as everybody will."""
    complete = dataclasses.replace(manifest, files=record_files(staging))
    (staging / MANIFEST_NAME).write_bytes(manifest_bytes(complete))
    return load_bundle(staging)


def _checks(components: Mapping[str, Component], manifest: BundleManifest) -> dict[str, NDArray[np.float32]]:
    """What the networks give for the check inputs, by component and output."""
    run = torch_runner(components, manifest.form).run
    return {
        f"{name}.{output}": values
        for name, spec in manifest.components.items()
        for output, values in elements(run(name, check_inputs(spec, ROWS))).items()
    }


def _engine(bundle: Bundle) -> RunComponent:
    """The engine's own backend, which takes the files as `generate` does."""
    return OnnxRuntimeBackend(bundle, "cpu", available_threads()).run

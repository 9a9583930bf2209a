"""Makes the segmenter for phantoms that ships: `python -m sbldm.export.phantom_segmenter --cache FOLDER`.

It is trained on phantoms of the anatomies for training and tested on phantoms of the held-out ones; both are made where
the cache has none. Its Dice on the latter travels in the file. docs/evaluation.md has the command that made the file.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from rich.console import Console
from torch import Tensor, nn

from ..engine.bundle.manifest import DEFAULT_GRID, MODALITIES, TensorSpec
from ..engine.bundle.mask_first import BATCH
from ..engine.files import write_atomic
from ..engine.processor import available_threads
from ..engine.scans.prepare import LABELS
from ..train.data.cohort import Cohort
from ..train.data.phantoms import make_phantoms
from ..train.evaluation.agreement import volume_of
from ..train.evaluation.phantom_segmenter import DESCRIPTION, FILE, INPUT, OUTPUT, PhantomSegmenter
from ..train.evaluation.segmenter import NEIGHBOURS, REGIONS, SegmenterSettings, dice, train_segmenter
from ..train.phantom import HELD_OUT, PHANTOM_VERSION, TRAINING
from .components import Component
from .onnx_graph import DEFAULT_OPSET, export_graph
from .rewrite.precision import STORED_AS_FP16_FROM, store_weights_as_fp16


def main() -> None:
    """Make the phantoms, train, export, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of prepared phantoms")
    parser.add_argument("--seed", type=int, default=2026, help="of the phantoms to train on; tests take the next one")
    parser.add_argument("--first", type=int, default=80, help="number of the first of them")
    parser.add_argument("--count", type=int, default=88)
    parser.add_argument("--tests", type=int, default=16, help="phantoms of held-out anatomies")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FILE)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    console = Console(stderr=True)
    torch.set_num_threads(min(torch.get_num_threads(), available_threads()))

    def phantoms(numbers: range, seed: int, anatomies: tuple[int, ...]) -> Cohort:
        made = make_phantoms(
            numbers, given.cache, DEFAULT_GRID, MODALITIES, seed, anatomies=anatomies, workers=given.workers
        )  # fmt: skip
        return Cohort(DEFAULT_GRID, MODALITIES, made)

    seen = phantoms(range(given.first, given.first + given.count), given.seed, TRAINING)
    unseen = phantoms(range(given.tests), given.seed + 1, HELD_OUT)
    settings = SegmenterSettings(steps=given.steps)

    def advance(step: int, loss: float) -> None:
        if step % 50 == 0:
            console.print(f"{step}/{given.steps}  loss {loss:.3f}", highlight=False)

    model = train_segmenter([volume_of(seen, case) for case in range(len(seen))], settings, advance)
    graph = graph_of(model)
    trained_on = {"seed": given.seed, "first": given.first, "count": given.count, "anatomies": TRAINING}
    tested_on = {"seed": given.seed + 1, "count": given.tests, "anatomies": HELD_OUT}
    told = {
        "modalities": MODALITIES, "grid": asdict(DEFAULT_GRID), "phantom_version": PHANTOM_VERSION,
        "settings": asdict(settings), "trained_on": trained_on, "tested_on": tested_on, "dice": [],
    }  # fmt: skip
    found = tested(PhantomSegmenter(described(graph, told)), unseen)
    write_atomic(given.out, described(graph, {**told, "dice": np.round(found, 4).tolist()}))
    for name, scores in zip(unseen.cases, found, strict=True):
        print(name, *(f"{region} {score:.3f}" for region, score in zip(REGIONS, scores, strict=True)))
    print(json.dumps(dict(zip(REGIONS, np.round(found.mean(axis=0), 4).tolist(), strict=True))))


class _OfSlabs(nn.Module):
    """The network, its input named as the graph's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, slabs: Tensor) -> Tensor:
        return self.model(slabs)


def graph_of(model: nn.Module) -> onnx.ModelProto:
    """The trained network as ONNX, its weights rounded to fp16 and stored so."""
    channels = (2 * NEIGHBOURS + 1) * len(MODALITIES)
    x, y, _ = DEFAULT_GRID.shape
    component = Component(
        "segmenter",
        _OfSlabs(model.float()).eval(),
        (TensorSpec(INPUT, (BATCH, channels, x, y), "float32"),),
        (TensorSpec(OUTPUT, (BATCH, LABELS, x, y), "float32"),),
    )
    graph = export_graph(component, 1, DEFAULT_OPSET["fp32"])
    for tensor in graph.graph.initializer:  # norms lie in the convolutions by now
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= STORED_AS_FP16_FROM:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    return store_weights_as_fp16(graph)


def described(graph: onnx.ModelProto, told: dict[str, object]) -> bytes:
    """The graph's bytes with what is told of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    copy.metadata_props.add(key=DESCRIPTION, value=json.dumps(told))
    return copy.SerializeToString(deterministic=True)


def tested(segmenter: PhantomSegmenter, cohort: Cohort) -> NDArray[np.float64]:
    """Dice of each case and region: (cases, region)."""
    cases = [volume_of(cohort, case) for case in range(len(cohort))]
    return np.array([list(dice(segmenter.segment(image), label).values()) for image, label in cases])


if __name__ == "__main__":
    main()

"""The making of the segmenter that ships: what its graph computes, what travels in its file."""

from __future__ import annotations

import numpy as np
import torch
from sbldm.engine.bundle.manifest import DEFAULT_GRID, MODALITIES
from sbldm.export.phantom_segmenter import described, graph_of
from sbldm.train.evaluation.phantom_segmenter import PhantomSegmenter
from sbldm.train.evaluation.segmenter import UNet, segmented


def test_a_graph_finds_what_its_network_finds_and_says_what_it_was_made_of() -> None:
    torch.manual_seed(0)
    model = UNet(12, 4, (4, 8)).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    told = {"dice": [[0.9, 0.8, 0.7]], "trained_on": {"count": 3}}
    shipped = PhantomSegmenter(described(graph_of(model), told))
    assert (shipped.dice.tolist(), shipped.trained_on) == ([[0.9, 0.8, 0.7]], 3)

    def find(slabs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(slabs)).argmax(1).numpy().astype(np.uint8)

    image = np.zeros((len(MODALITIES), *DEFAULT_GRID.shape), np.uint8)
    image[:, 20:100, 10:110, 30:33] = np.random.default_rng(0).integers(1, 256, (4, 80, 100, 3))
    found = shipped.segment(image)
    assert (found == segmented(find, image)).mean() > 0.999
    assert np.unique(found).size > 1
    assert not found[~image.any(axis=0)].any()

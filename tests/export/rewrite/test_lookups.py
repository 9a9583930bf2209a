"""Tables and the split ellipsoid map: equal to what they replace, and still right where a runtime takes to bfloat16."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sbldm.engine.bundle.manifest import TensorSpec
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.processor import has_bf16
from sbldm.export.components import Component
from sbldm.export.onnx_graph import export_graph
from sbldm.export.rewrite.lookups import PositionLookup, SplitEllipsoidMap, TimeLookup, with_lookups
from sbldm.train.networks.denoiser import EllipsoidMap, TimeEmbedding
from sbldm.train.networks.slice_vae import PositionEmbedding
from torch import Tensor, nn

STEPS, SPACE = 1000, (8, 16, 16)
SHELLS = (("ncr_share", "et_share"), ("ncr_share",))
SMALLEST_STEP = 2.0**-8  # relative spacing of bfloat16


class Front(nn.Module):
    """The front of a denoiser with an identity behind each part, where a runtime that reduces starts to reduce."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time = TimeEmbedding(16, 16)
        self.ellipsoid = EllipsoidMap(SPACE, COLUMNS, SHELLS)
        self.ellipsoid.column_mean.copy_(torch.tensor([0.513, 0.487, 0.531, 0.27, 0.31, 0.29, 0.21, 0.22]))
        self.ellipsoid.column_std.copy_(torch.tensor([0.113, 0.097, 0.083, 0.087, 0.093, 0.101, 0.17, 0.18]))
        self.linear, self.conv = nn.Linear(16, 16), nn.Conv3d(3, 3, 1, groups=3)
        nn.init.eye_(self.linear.weight)
        nn.init.ones_(self.conv.weight)
        for layer in (self.linear, self.conv):
            nn.init.zeros_(layer.bias)

    def forward(self, timestep: Tensor, condition: Tensor, condition_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(self.time(timestep)), self.conv(self.ellipsoid(condition, condition_mask))


def front(rewritten: bool) -> Component:
    rewrite = partial(with_lookups, depth=8, steps=STEPS, columns=len(COLUMNS))
    inputs = (
        TensorSpec("timestep", ("batch",), "float32"),
        TensorSpec("condition", ("batch", len(COLUMNS)), "float32"),
        TensorSpec("condition_mask", ("batch",), "float32"),
    )
    outputs = (TensorSpec("row", ("batch", 16), "float32"), TensorSpec("map", ("batch", 3, *SPACE), "float32"))
    return Component("front", Front(), inputs, outputs, rewrite if rewritten else None)


def feeds() -> dict[str, NDArray[Any]]:
    condition = np.random.default_rng(0).standard_normal((STEPS, len(COLUMNS)), np.float32)
    return {
        "timestep": np.arange(STEPS, dtype=np.float32),
        "condition": condition,
        "condition_mask": np.ones(STEPS, np.float32),
    }


def test_tables_hold_every_step_and_position() -> None:
    time, position = TimeEmbedding(16, 24), PositionEmbedding(16, 8)
    steps, places = torch.arange(STEPS, dtype=torch.float32), torch.arange(8)
    with torch.no_grad():
        torch.testing.assert_close(TimeLookup(time, STEPS)(steps), time(steps), rtol=0, atol=0)
        torch.testing.assert_close(PositionLookup(position, 8)(places), position(places), rtol=0, atol=0)


def test_steps_between_and_beyond_take_the_nearest() -> None:
    lookup = TimeLookup(nn.Linear(1, 1), 1)
    lookup.table = torch.arange(STEPS, dtype=torch.float32)[:, None]
    asked = torch.tensor([-3.0, 31.6, 499.4, 999.0, 999.7, 1500.0])
    assert lookup(asked)[:, 0].tolist() == [0, 32, 499, 999, 999, 999]


def test_the_split_map_is_the_map() -> None:
    whole = Front().ellipsoid
    split = SplitEllipsoidMap(whole, len(COLUMNS))
    condition = 3 * torch.randn(64, len(COLUMNS), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(64) % 3 > 0).float()
    torch.testing.assert_close(split(condition, mask), whole(condition, mask), rtol=0, atol=2e-5)


@pytest.mark.skipif(not has_bf16(), reason="this processor does not multiply bfloat16")
def test_openvino_in_bf16_takes_the_right_row_and_draws_the_right_map() -> None:
    openvino = pytest.importorskip("openvino")
    core, inputs = openvino.Core(), feeds()
    with torch.no_grad():
        row, drawn = (t.numpy() for t in Front()(**{name: torch.from_numpy(v) for name, v in inputs.items()}))
    rows_off, map_error = {}, {}
    for rewritten in (False, True):
        model = core.read_model(export_graph(front(rewritten), 8, 21).SerializeToString())
        made = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(inputs)
        rows_off[rewritten] = int((np.abs(made[0] - row) > SMALLEST_STEP * np.abs(row)).any(axis=1).sum())
        map_error[rewritten] = float(np.abs(made[1] - drawn).max())
    assert rows_off[True] == 0
    assert rows_off[False] > STEPS / 2
    assert map_error[True] < 3 * SMALLEST_STEP
    assert map_error[False] > 2 * map_error[True]

"""bfloat16 where the processor computes in it, float32 where it would emulate it."""

from __future__ import annotations

import logging

import pytest
import torch
from sbldm.engine.errors import UsageError
from sbldm.train.precision import reduced_products, reduced_type, training_precision

on_a_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")


@pytest.fixture(params=[True, False], ids=["with-bf16", "without"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor is one with bfloat16 arithmetic."""
    monkeypatch.setattr("sbldm.train.precision.has_bf16", lambda: request.param)
    return request.param


def test_products_are_in_the_type_that_the_processor_computes_in(fast: bool) -> None:
    expected = torch.bfloat16 if fast else torch.float32
    assert reduced_type("cpu") == (torch.bfloat16 if fast else None)
    with reduced_products("cpu"):
        assert torch.nn.Linear(3, 2)(torch.ones(1, 3)).dtype == expected


def test_devices_other_than_processors_are_asked_nothing(fast: bool) -> None:
    assert reduced_type("cuda:1") == torch.bfloat16


@on_a_cpu
def test_a_training_takes_the_faster_arithmetic_by_itself(fast: bool) -> None:
    assert training_precision("auto") == ("bf16-mixed" if fast else "32-true")


@on_a_cpu
def test_what_is_asked_for_is_taken_and_the_slow_one_told(fast: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert [training_precision(name) for name in ("32-true", "16-mixed")] == ["32-true", "16-mixed"]
        assert not caplog.messages
        assert training_precision("bf16-mixed") == "bf16-mixed"
    assert caplog.messages == (
        [] if fast else ["--precision bf16-mixed: this processor emulates bfloat16; 32-true is several times faster"]
    )


def test_another_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="--precision fp32: allowed auto, bf16-mixed"):
        training_precision("fp32")

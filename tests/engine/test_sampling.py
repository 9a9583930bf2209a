from __future__ import annotations

import pytest
from sbldm.engine import sampling
from sbldm.engine.backends import choose_backend
from sbldm.engine.bundle import Bundle
from sbldm.engine.loop import VolumeSampler
from sbldm.engine.plan import make_options


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 0.8, 4: 0.7, 8: 0.69}, 4),  # 8 no longer pays
        ({1: 1.0, 2: 0.8}, 2),  # 4 does not fit
        ({1: 1.0, 2: 1.1}, 1),
    ],
)
def test_batch_size_is_doubled_until_it_stops_paying_or_fitting(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], expected: int
) -> None:
    def measured(sampler: VolumeSampler) -> float:
        if sampler.options.batch_size not in seconds:
            raise MemoryError
        return seconds[sampler.options.batch_size]

    monkeypatch.setattr(sampling, "_seconds_a_volume", measured)
    backend = choose_backend(tiny_bundle, "onnxruntime", "cpu", threads=1)
    assert sampling.measured_batch_size(tiny_bundle, backend, make_options(tiny_bundle, 1)) == expected


def test_auto_on_the_command_line_is_resolved_and_recorded(tiny_bundle: Bundle, tmp_path) -> None:
    import json

    from sbldm.cli.main import main

    asked = ["generate", "--bundle", str(tiny_bundle.path), "--count", "2", "--steps", "1", "--threads", "1", "--quiet"]
    asked += ["--out", str(tmp_path / "out"), "--batch-size", "auto"]
    assert main(asked) == 0
    recorded = json.loads((tmp_path / "out/run.json").read_text())["resolved"]["batch_size"]
    assert recorded in {2**k for k in range(13)}
    assert main([*asked, "--resume"]) == 0

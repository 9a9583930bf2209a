"""The host's work of a volume, part by part."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sbldm.benchmarks.gpu_proof import proof_requests
from sbldm.benchmarks.host_rate import ReplayedNetworks
from sbldm.benchmarks.host_work import MEASURED, PARTS, host_seconds, main, table
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.sampling.host import HostLoop
from sbldm.engine.sampling.model import model_of
from sbldm.engine.sampling.types import SamplingOptions

OF_GRAIN = {"normals of the grain", "grain"}


def test_every_part_of_every_volume_is_told(tiny_mask_first_bundle: Bundle) -> None:
    seconds = host_seconds(tiny_mask_first_bundle, 2)
    form = tiny_mask_first_bundle.manifest.mask_first
    assert form is not None
    grained = any(deviation for pair in form.grain for deviation in pair)
    assert set(seconds) == {*PARTS, MEASURED} - (set() if grained else OF_GRAIN)
    assert {len(found) for found in seconds.values()} == {2}
    assert min(seconds["brain drawn"]) > 0
    together = table({"a": [0.001, 0.003], "b": [0.01, 0.02]}).splitlines()[-1].split()
    assert together == ["together", "17.0", "11.0"]


def test_networks_that_are_replayed_give_what_they_gave(tiny_mask_first_bundle: Bundle) -> None:
    """To every slot of a batch, as often as they are asked."""
    bundle, model = tiny_mask_first_bundle, model_of(tiny_mask_first_bundle.manifest)
    options = SamplingOptions.default(bundle.manifest.defaults, batch_size=2)
    first, second = proof_requests(bundle, 2)
    alone = replace(options, batch_size=1)
    (real,) = HostLoop(model, OnnxRuntimeBackend(bundle, "cpu", 1).run, alone).start([first])()
    loop = HostLoop(model, ReplayedNetworks(bundle, options), options)
    loop.start([second])()
    replayed, other = loop.start([first, second])()
    assert replayed.image.tobytes() == real.image.tobytes()
    assert other.image.tobytes() != real.image.tobytes()


def test_the_rate_is_told_with_its_processor_time(
    tiny_mask_first_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--bundle", str(tiny_mask_first_bundle.path), "--processes", "1", "--batch", "1", "--batches", "1"]
    assert main(asked) == 0
    processes, rate, own, others = map(float, capsys.readouterr().out.splitlines()[1].split())
    assert processes == 1
    assert rate > 0
    assert others > own > 0  # the work is in the other process


def test_a_bundle_of_slices_is_refused(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", str(tiny_bundle.path)])
    assert "mask-first" in capsys.readouterr().err

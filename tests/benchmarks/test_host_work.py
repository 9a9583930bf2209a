"""The host's work of a volume, part by part."""

from __future__ import annotations

import pytest
from sbldm.benchmarks.host_work import MEASURED, PARTS, host_seconds, main, table
from sbldm.engine.bundle.load import Bundle

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


def test_a_bundle_of_slices_is_refused(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", str(tiny_bundle.path)])
    assert "mask-first" in capsys.readouterr().err

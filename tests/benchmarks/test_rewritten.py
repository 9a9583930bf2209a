"""What rewritten graphs save: the table, and bundles that have none."""

from __future__ import annotations

import pytest
from sbldm.benchmarks.rewritten import main
from sbldm.engine.bundle.load import Bundle


def test_plain_and_rewritten_graphs_are_timed_and_compared(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(tiny_bundle.path), "--repeats", "1"]) == 0
    _, _, row, together = capsys.readouterr().out.splitlines()
    name, *times, departure = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == f"denoiser, {tiny_bundle.manifest.defaults.steps}"
    assert all(float(cell) > 0 for cell in times)
    assert 0 < float(departure) < 1e-5
    assert together.startswith("| **a volume** |")


def test_a_bundle_without_rewritten_graphs_is_refused(
    tiny_mask_first_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", str(tiny_mask_first_bundle.path)])
    assert "no component of it has a rewritten graph" in capsys.readouterr().err

"""`build`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.schemas import held_to

pytest.importorskip("tensorrt_rtx")


def test_engines_are_built_once_and_then_cached(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", "--bundle", str(tiny_bundle.path), "--compute-capability", "8.9", "--flavour", "tensorrt_rtx"]
    command += ["--batch", "2", "--slices", "4", "--cache-dir", str(tmp_path), "--json"]
    assert main(command) == 0
    first = held_to("build", capsys.readouterr().out)
    assert main(command) == 0
    second = json.loads(capsys.readouterr().out)
    assert [row["component"] for row in first] == list(tiny_bundle.manifest.components)
    assert all(row["built"] for row in first)
    assert not any(row["built"] for row in second)
    assert [row["path"] for row in first] == [row["path"] for row in second]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--compute-capability", "90"], 4, "no engines for compute capability 90"),
        (["--compute-capability", "hopper"], 4, "write it like 89"),
        (["--flavour", "onnx"], 2, "allowed tensorrt, tensorrt_rtx"),
        (["--cuda-driver", "13000"], 2, "belongs to --compute-capability"),
        (["--bundle", "nowhere"], 3, "no such directory"),
    ],
)
def test_what_cannot_be_built_is_refused(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    bundle = [] if "--bundle" in options else ["--bundle", str(tiny_bundle.path)]
    flavour = [] if "--flavour" in options else ["--flavour", "tensorrt_rtx"]
    assert main(["build", *bundle, *flavour, *options]) == code
    assert message in capsys.readouterr().err

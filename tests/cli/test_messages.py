"""What the command line answers to the commonest mistakes, word for word: scripts and people know these messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

RANGE = "0.1 to 1415.58 ml (a quarter of the field of view)"
MISTAKES = [
    ("", 2, "give --count N, --conditions FILE or both"),
    ("--count 0", 2, "--count 0: must be 1 or more"),
    ("--count -3", 2, "--count -3: must be 1 or more"),
    ("--count 2 --seed -1", 2, "--seed -1: must be from 0 to 2^64 - 1"),
    ("--count 2 --seed 18446744073709551616", 2, "--seed 18446744073709551616: must be from 0 to 2^64 - 1"),
    ("--count 2 --steps 0", 2, "--steps 0: must be from 1 to 1000"),
    ("--count 2 --steps 1000000", 2, "--steps 1000000: must be from 1 to 1000"),
    ("--count 2 --eta 1.5", 2, "--eta 1.5: must be from 0 to 1"),
    ("--count 2 --eta nan", 2, "--eta nan: must be from 0 to 1"),
    ("--count 2 --guidance -1", 2, "--guidance -1.0: must be from 0 to 100"),
    ("--count 2 --sampler euler", 2, "--sampler euler: allowed: ddim, dpmpp-2m"),
    (
        "--count 2 --sampler dpmpp-2m --eta 0.5",
        2,
        "--eta: dpmpp-2m is deterministic, leave --eta at 0 or use --sampler ddim",
    ),
    ("--count 2 --names 2022", 2, "--names 2022: allowed: 2021, 2023"),
    ("--count 2 --layout bids --names 2023", 2, "--names 2023 belongs to --layout brats, not to bids"),
    ("--count 2 --grid mni", 2, "--grid mni: allowed: native, brats"),
    ("--count 2 --shard 2/2", 2, "--shard 2/2: I must be from 0 to N-1, here 0 to 1"),
    ("--count 2 --shard 1", 2, "--shard 1: write it as I/N, such as 0/4"),
    ("--count 2 --shard 0/0", 2, "--shard 0/0: I must be from 0 to N-1, here 0 to 0"),
    ("--count 2 --samples 0,2", 2, "--samples 0,2: 2 is not within 0-1 of this run, low number first"),
    ("--count 2 --samples 1-0", 2, "--samples 1-0: 1-0 is not within 0-1 of this run, low number first"),
    ("--count 2 --samples one", 2, "--samples one: 'one' is neither a number nor a range; write it as 3,7-9"),
    ("--conditions ok.csv --samples 5", 2, "--samples 5: 5 is not within 0-1 of this run, low number first"),
    ("--count 2 --workers 0", 2, "--workers 0: must be from 1 to 256"),
    ("--count 2 --batch-size 0", 2, "--batch-size 0: must be auto, or from 1 to 4096"),
    ("--count 2 --batch-size many", 2, "--batch-size many: must be auto, or from 1 to 4096"),
    ("--count 2 --threads 0", 2, "--threads 0: must be from 1 to 1024"),
    ("--count 2 --reject 0", 2, "--reject 0.0: the tolerance must be above 0 and at most 10"),
    ("--count 2 --attempts 0", 2, "--attempts 0: must be from 1 to 100"),
    ("--count 2 --device tpu", 2, "--device tpu: allowed auto, cpu, cuda, cuda:0, cuda:1, ..."),
    ("--count 2 --precision int4", 2, "--precision int4: this bundle holds fp32 for onnxruntime"),
    ("--count 2 --log-format xml", 2, "--log-format xml: allowed: text, json"),
    ("--count 2 --conditions none.csv", 3, "none.csv: no such file; give a CSV file of conditions"),
    (
        "--conditions bad.csv",
        3,
        f"bad.csv:2: volume_ml: -4: {RANGE}\nbad.csv:3: id: a: each id once; it is already on line 2\n"
        f"bad.csv:3: volume_ml: abc: a number, {RANGE}",
    ),
    ("--count 1 --add-to x", 2, "--add-to: needs --layout nnunet and a whole run; add shards by merge --add-to"),
    ("--count 1 --splits x", 2, "--splits and --link: belong to --add-to"),
    (
        "--count 0 --seed -1 --steps 0 --sampler x --grid y --workers 0",
        2,
        "--count 0: must be 1 or more\n--seed -1: must be from 0 to 2^64 - 1\n--steps 0: must be from 1 to 1000\n"
        "--sampler x: allowed: ddim, dpmpp-2m\n--grid y: allowed: native, brats\n--workers 0: must be from 1 to 256",
    ),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES)
def test_the_words_of_generate(
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("id,volume_ml\na,-4\na,abc\n")
    Path("ok.csv").write_text("volume_ml\n20\n30\n")
    assert main(["generate", "--bundle", str(tiny_bundle.path), "--out", "out", *arguments.split()]) == code
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not Path("out").exists()

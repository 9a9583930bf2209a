"""The one request: what it takes, what it refuses and in which words, and what of it run.json records."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sbldm.cli._options import RunFlags
from sbldm.engine.bundle.load import DEFAULT_BUNDLE, Bundle
from sbldm.engine.bundle.manifest import FittedSteps, SamplingDefaults
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.output.layouts import LayoutName
from sbldm.engine.run.arguments import DatasetArguments
from sbldm.engine.run.description import Resolved
from sbldm.engine.run.options import RunOptions
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.sdedit import SourceCase

PROCESS = {"out", "resume", "shard", "samples", "strict", "workers", "ray", "sample_timeout", "verify_files"}
NAMES = {f.name for f in dataclasses.fields(GenerateRequest)}
OPTIONS = {f.name for f in dataclasses.fields(RunOptions)}
MACHINE = {f.name for f in dataclasses.fields(Resolved)} - {"compressor"} | {"threads"}


def refused(bundle: Bundle, **given: Any) -> list[str]:
    with pytest.raises(UsageError) as error:
        GenerateRequest(bundle=bundle, **{"count": 2, **given})
    return str(error.value).splitlines()


def test_every_field_is_of_the_run_the_machine_or_this_process_alone() -> None:
    parts = [OPTIONS, MACHINE, PROCESS, {"bundle", "conditions", "source", "dataset_grid", "exclude_copies"}]
    assert set().union(*parts) == NAMES
    assert sum(map(len, parts)) == len(NAMES)


def test_the_command_line_has_a_flag_for_every_field() -> None:
    flags = {f.name: f.default for f in dataclasses.fields(RunFlags)}
    objects = {"source", "dataset_grid", "exclude_copies"}  # of `augment`, --masks, --add-to and --exclude-copies
    assert flags.keys() >= NAMES - objects
    defaults = {
        f.name: f.default for f in dataclasses.fields(GenerateRequest) if f.name not in {"bundle", "out", *objects}
    }
    assert {name: value for name, value in defaults.items() if flags[name] not in (None, value)} == {}
    assert flags["bundle"] == DEFAULT_BUNDLE


def test_the_arguments_of_the_python_interface_are_fields_of_the_same_type() -> None:
    arguments, declared = get_type_hints(DatasetArguments), get_type_hints(GenerateRequest)
    assert arguments == {name: declared[name] for name in arguments}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "--count 0: must be 1 or more"),
        ({"count": 2.0}, "--count 2.0: must be a whole number"),
        ({"count": None}, "give --count N, --conditions FILE or both"),
        ({"seed": "7"}, "--seed '7': must be a whole number"),
        ({"seed": -1}, "--seed -1: must be from 0 to 2^64 - 1"),
        ({"seed": None}, "--seed None: must be a whole number"),
        ({"steps": 2.5}, "--steps 2.5: must be a whole number"),
        ({"steps": True}, "--steps True: must be a whole number"),
        ({"steps": np.True_}, "--steps np.True_: must be a whole number"),
        ({"steps": 0}, "--steps 0: must be from 1 to 1000"),
        ({"steps": 1001}, "--steps 1001: must be from 1 to 1000"),
        ({"sampler": "euler"}, "--sampler euler: allowed: ddim, dpmpp-2m, fitted"),
        ({"sampler": 1}, "--sampler 1: allowed: ddim, dpmpp-2m, fitted"),
        ({"eta": "0.5"}, "--eta '0.5': must be a number"),
        ({"eta": float("nan")}, "--eta nan: must be from 0 to 1"),
        (
            {"eta": 0.5, "sampler": "dpmpp-2m"},
            "--eta: dpmpp-2m is deterministic, leave --eta at 0 or use --sampler ddim",
        ),
        ({"guidance": 100.5}, "--guidance 100.5: must be from 0 to 100"),
        ({"guidance": 10**400}, "--guidance of 1329 bits: must be from 0 to 100"),
        ({"layout": "nunet"}, f"--layout nunet: allowed: {', '.join(get_args(LayoutName))}"),
        ({"layout": ["brats"]}, "--layout ['brats']: must be a text"),
        ({"names": 2021}, "--names 2021: must be a text"),
        ({"layout": "bids", "names": "2023"}, "--names 2023 belongs to --layout brats, not to bids"),
        ({"grid": "mni"}, "--grid mni: allowed: native, brats, source"),
        ({"reject": 0}, "--reject 0: the tolerance must be above 0 and at most 10"),
        ({"attempts": 101}, "--attempts 101: must be from 1 to 100"),
        ({"batch_size": "many"}, "--batch-size many: must be auto, or from 1 to 4096"),
        ({"batch_size": True}, "--batch-size True: must be auto, or from 1 to 4096"),
        ({"batch_size": 4097}, "--batch-size 4097: must be auto, or from 1 to 4096"),
        ({"threads": 0}, "--threads 0: must be from 1 to 1024"),
        ({"device": 0}, "--device 0: must be a text"),
        ({"out": 5}, "--out 5: must be a path"),
        ({"resume": 1}, "--resume 1: must be True or False"),
        ({"shard": "2/2"}, "--shard 2/2: I must be from 0 to N-1, here 0 to 1"),
        ({"samples": "0,2"}, "--samples 0,2: 2 is not within 0-1 of this run, low number first"),
        ({"workers": 257}, "--workers 257: must be from 1 to 256"),
        ({"conditions": 5}, "--conditions 5: must be the path of a CSV, a list of rows, or None"),
        (
            {"conditions": [{"volume_ml": 20.0}], "out": Path("out")},
            "--conditions: a run in a directory is recorded with its file; give the path of a CSV",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tiny_bundle: Bundle, given: dict, message: str) -> None:
    assert refused(tiny_bundle, **given) == [message]


def test_all_faults_are_told_at_once_in_the_order_of_the_fields(tiny_bundle: Bundle) -> None:
    told = refused(tiny_bundle, workers=0, seed="7", steps=0, layout="nunet", shard="x", count=0, samples="9")
    assert [line.split()[0] for line in told] == ["--count", "--seed", "--steps", "--layout", "--shard", "--workers"]


def test_a_bundle_must_be_loaded() -> None:
    with pytest.raises(UsageError, match="load_bundle"):
        GenerateRequest(bundle="phantom", count=1)  # type: ignore[arg-type]


def test_numpy_numbers_and_paths_become_pythons(tiny_bundle: Bundle) -> None:
    request = GenerateRequest(
        bundle=tiny_bundle, count=np.int64(3), seed=np.uint64(2**64 - 1), steps=np.uint8(2), eta=np.float32(0.5),
        guidance=2, batch_size=np.int32(4), out="out", strict=np.False_,
    )  # type: ignore[arg-type]  # fmt: skip
    options = request.options()
    assert (options.count, options.seed, options.steps, options.eta) == (3, 2**64 - 1, 2, 0.5)
    assert [type(v) for v in (options.count, options.seed, options.eta, options.guidance)] == [int, int, float, float]
    assert (type(request.batch_size), request.out, request.strict) == (int, Path("out"), False)
    json.dumps(dataclasses.asdict(options))


def test_options_are_those_of_run_json_with_the_bundles_defaults(tiny_bundle: Bundle) -> None:
    defaults = tiny_bundle.manifest.defaults
    options = GenerateRequest(bundle=tiny_bundle, conditions=[{"volume_ml": 20.0}] * 5, seed=3).options(5)
    text = json.dumps(dataclasses.asdict(options))
    assert text == (
        f'{{"count": 5, "seed": 3, "steps": {defaults.steps}, "sampler": "{defaults.sampler}", '
        f'"eta": {defaults.eta}, "guidance": {defaults.guidance}, "layout": "brats", "names": "2021", '
        '"name_by": "sample", "grid": "native", "rtstruct": false, "reject": null, "attempts": 4}'
    )
    assert GenerateRequest(bundle=tiny_bundle, count=2).options(5).count == 2


@pytest.fixture
def fitted_bundle(tiny_bundle: Bundle) -> Bundle:
    """With two fitted steps as its default, and three beside them."""
    manifest = tiny_bundle.manifest
    last = len(manifest.schedule.alphas_cumprod) - 1
    fitted = tuple(FittedSteps(tuple(range(last, last - steps, -1)), ((0.5, 0.5, 0.0),) * steps) for steps in (2, 3))
    return dataclasses.replace(
        tiny_bundle,
        manifest=dataclasses.replace(
            manifest,
            schedule=dataclasses.replace(manifest.schedule, fitted=fitted),
            defaults=SamplingDefaults("fitted", 2, 0.0, 1.0),
        ),
    )


@pytest.mark.parametrize(
    ("asked", "sampler", "steps"),
    [
        ({}, "fitted", 2),
        ({"steps": 3}, "fitted", 3),
        ({"sampler": "fitted"}, "fitted", 2),
        ({"eta": 0.0, "guidance": 1.0}, "fitted", 2),
        ({"steps": 7}, "ddim", 7),
        ({"eta": 0.5}, "ddim", 10),
        ({"guidance": 2.0}, "ddim", 10),
        ({"sampler": "ddim"}, "ddim", 10),
        ({"sampler": "dpmpp-2m", "steps": 2}, "dpmpp-2m", 2),
    ],
)
def test_where_fitted_steps_are_the_default_others_can_be_asked_for(
    fitted_bundle: Bundle, asked: dict[str, Any], sampler: str, steps: int
) -> None:
    options = GenerateRequest(bundle=fitted_bundle, count=1, **asked).options()
    assert (options.sampler, options.steps) == (sampler, steps)


def test_what_starts_from_a_case_takes_no_fitted_steps(fitted_bundle: Bundle) -> None:
    image, label = np.zeros((4, 16, 16, 8), np.int16), np.zeros((16, 16, 8), np.uint8)
    source = SourceCase(image, label, 0.5)
    options = GenerateRequest(bundle=fitted_bundle, count=1, source=source).options()
    assert (options.sampler, options.steps) == ("ddim", 10)
    assert GenerateRequest(bundle=fitted_bundle, count=1, source=source, steps=2).options().sampler == "ddim"
    assert refused(fitted_bundle, source=source, sampler="fitted") == [
        "--sampler fitted: its steps start from noise alone; use ddim or dpmpp-2m"
    ]


def test_fitted_steps_that_are_not_there_are_refused(fitted_bundle: Bundle) -> None:
    assert refused(fitted_bundle, sampler="fitted", steps=7) == [
        "--sampler fitted, --steps 7: this bundle has fitted steps for --steps 2, 3; --sampler ddim takes any number"
    ]
    assert refused(fitted_bundle, sampler="fitted", eta=0.5) == [
        "--eta: fitted is deterministic, leave --eta at 0 or use --sampler ddim"
    ]
    assert refused(fitted_bundle, sampler="fitted", guidance=2.0) == [
        "--guidance: fitted steps are those without guidance, leave it at 1 or use --sampler ddim"
    ]


def test_a_source_case_is_held_to_the_bundle(tiny_bundle: Bundle) -> None:
    image, label = np.zeros((4, 16, 16, 8), np.int16), np.zeros((16, 16, 8), np.uint8)
    GenerateRequest(bundle=tiny_bundle, count=1, source=SourceCase(image, label, 0.5))
    assert refused(tiny_bundle, seed=-1, source=SourceCase(image, label, 1.5)) == [
        "--strength 1.5: must be from 0 (the reconstruction) to 1 (nothing is left of it)",
        "--seed -1: must be from 0 to 2^64 - 1",
    ]
    for source in (SourceCase(image, label, "0.5"), SourceCase(image, label, True)):  # type: ignore[arg-type]
        assert "--strength" in refused(tiny_bundle, source=source)[0]
    assert "--image" in refused(tiny_bundle, source=SourceCase([1], label, 0.5))[0]  # type: ignore[arg-type]
    assert "--label" in refused(tiny_bundle, source=SourceCase(image, label.astype(float), 0.5))[0]  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="label 9"):
        GenerateRequest(bundle=tiny_bundle, count=1, source=SourceCase(image, label + np.uint8(9), 0.5))


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=10**400), st.floats(), st.text(), st.binary(),
    st.lists(st.integers()), st.fractions(), st.complex_numbers(), st.just(np.float32(1)), st.just(np.zeros(2)),
    st.builds(object),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(NAMES - {"bundle", "source"})), ANYTHING, max_size=4))
def test_anything_at_all_is_taken_or_refused_in_words(tiny_bundle: Bundle, asked: dict[str, Any]) -> None:
    try:
        request = GenerateRequest(bundle=tiny_bundle, **{"count": 1, **asked})
    except UsageError:
        return
    json.dumps(dataclasses.asdict(request.options()), allow_nan=False)

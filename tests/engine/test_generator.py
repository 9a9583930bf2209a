from __future__ import annotations

import csv
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.generator import Cancelled, Generator
from sbldm.engine.sample import FaultySampleError
from sbldm.engine.sampling.types import Volume


@pytest.fixture
def generator(tiny_bundle: Bundle):
    with Generator.load(tiny_bundle.path, threads=1) as generator:
        yield generator


def test_generate_and_sample_agree(generator: Generator, tmp_path: Path) -> None:
    rows = [{"volume_ml": 20.0, "x": 0.4}, {"volume_ml": 35.0}]
    made = list(generator.generate(3, conditions=rows, seed=3, steps=3, eta=1.0))
    assert [s.index for s in made] == [0, 1, 2]
    assert [s.id for s in made] == ["0", "1", "2"]
    grid = generator.bundle.manifest.grid
    for s in made:
        assert s.image.shape == (4, *grid.shape)
        assert s.label.shape == grid.shape
        assert np.array_equal(s.affine, grid.affine)
        assert s.fault is None
    assert made[2].requested["volume_ml"] == 20.0
    assert made[0].requested["y"] != made[2].requested["y"]  # drawn for each sample
    alone = generator.sample(2, conditions=rows, seed=3, steps=3, eta=1.0)
    assert np.array_equal(alone.image, made[2].image)
    assert np.array_equal(alone.label, made[2].label)
    assert alone.requested == made[2].requested
    table = tmp_path / "cond.csv"
    table.write_text("volume_ml,x\n20,0.4\n35,\n")
    from_file = next(generator.generate(conditions=table, seed=3, steps=3, eta=1.0))
    assert np.array_equal(from_file.image, made[0].image)


def test_a_generator_says_what_it_is(generator: Generator) -> None:
    told = repr(generator)
    assert told.startswith(
        f"<Generator of {generator.bundle.manifest.id}: t1, t1ce, t2, flair, 16 x 16 x 8; onnxruntime"
    )
    assert told.endswith("on cpu, 1 thread, batch size 1>")
    generator.close()
    assert repr(generator).endswith(", closed>")
    with pytest.raises(UsageError, match=r"^bundle: is empty; give a name \(shipped: glioma, phantom; pulled: "):
        Generator.load("")


def test_rows_may_have_ids(generator: Generator) -> None:
    rows = [{"id": "small", "volume_ml": 5.0}, {"volume_ml": 9.0}]
    made = list(generator.generate(3, conditions=rows, steps=1))
    assert [s.id for s in made] == ["small", "1", "small-2"]
    assert made[0].requested["volume_ml"] == 5.0


def test_the_files_of_generate_hold_the_same_arrays(generator: Generator, tmp_path: Path) -> None:
    from sbldm.cli.main import main
    from sbldm.engine.output.layouts import make_layout
    from sbldm.engine.run.preview import read_scan

    out = tmp_path / "out"
    arguments = ["generate", "--bundle", str(generator.bundle.path), "--count", "2", "--seed", "9", "--steps", "2"]
    assert main([*arguments, "--threads", "1", "--out", str(out), "--quiet"]) == 0
    manifest = generator.bundle.manifest
    for s in generator.generate(2, seed=9, steps=2):
        scan = read_scan(out, make_layout("brats", manifest.modalities, manifest.labels), s.index)
        assert np.array_equal(scan.image, s.image)
        assert np.array_equal(scan.label, s.label)


def test_reject_keeps_the_draw_that_the_command_line_keeps(generator: Generator, tmp_path: Path) -> None:
    """A random model hits nothing: every attempt is drawn, and for some samples a later one is nearest."""
    from sbldm.cli.main import main
    from sbldm.engine.output.layouts import make_layout
    from sbldm.engine.run.preview import read_scan

    out, manifest = tmp_path / "out", generator.bundle.manifest
    arguments = ["generate", "--bundle", str(generator.bundle.path), "--count", "4", "--seed", "1", "--steps", "2"]
    arguments += ["--threads", "1", "--reject", "0.01", "--attempts", "3", "--out", str(out), "--quiet"]
    assert main(arguments) == 0
    rows = list(csv.DictReader((out / "manifest.csv").open()))
    made = list(generator.generate(4, seed=1, steps=2, reject=0.01, attempts=3))
    assert [str(s.attempt) for s in made] == [row["attempt"] for row in rows]
    assert len({s.attempt for s in made}) > 1
    layout = make_layout("brats", manifest.modalities, manifest.labels)
    for s in made:
        assert np.array_equal(read_scan(out, layout, s.index).image, s.image)
        assert s.fault is None
    alone = generator.sample(2, seed=1, steps=2, reject=0.01, attempts=3)
    assert (alone.attempt, alone.image.tobytes()) == (made[2].attempt, made[2].image.tobytes())


class Growing:
    """In the place of a loop: the tumour grows with the attempt; sample 1 is broken at attempts 0 and 2."""

    in_flight = 1

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.asked = shape, list[tuple[int, int]]()
        self.options = SimpleNamespace(batch_size=2)

    def start(self, requests, on_step=None):
        self.asked += [(r.number, r.attempt) for r in requests]
        return lambda: [self.volume(r.number, r.attempt) for r in requests]

    def volume(self, number: int, attempt: int) -> Volume:
        label = np.zeros(self.shape, np.uint8)
        label[2 : 3 + attempt, 2:4, 2:4] = 2
        fault = "blank" if number == 1 and attempt in (0, 2) else None
        return Volume(number, attempt, np.full((4, *self.shape), 500, np.int16), label, fault)


def test_samples_that_miss_or_are_broken_are_drawn_again(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Growing(generator.bundle.manifest.grid.shape)
    monkeypatch.setattr("sbldm.engine.generator.open_loop", lambda *_: stub)
    row = {"volume_ml": 300.0, "x": 0.3, "y": 0.2, "z": 0.4}  # larger than any that the stub makes
    made = list(generator.generate(2, conditions=[row], reject=0.01, attempts=2))
    assert stub.asked == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert [(s.attempt, s.fault) for s in made] == [(2, None), (1, None)]
    stub.asked.clear()
    plain = list(generator.generate(2, conditions=[row], faulty="keep"))
    assert stub.asked == [(0, 0), (1, 0)]
    assert [(s.attempt, s.fault) for s in plain] == [(0, None), (0, "blank")]


def test_a_faulty_sample_is_left_out_or_raises_and_trains_nothing(generator: Generator, monkeypatch, tmp_path) -> None:
    stub = Growing(generator.bundle.manifest.grid.shape)
    monkeypatch.setattr("sbldm.engine.generator.open_loop", lambda *_: stub)
    assert [s.index for s in generator.generate(3, faulty="skip")] == [0, 2]
    found = generator.generate(3)
    assert next(found).index == 0
    with pytest.raises(FaultySampleError, match=r"^sample 1: blank; it must not be used.*faulty=.skip"):
        next(found)
    with pytest.raises(FaultySampleError):
        generator.sample(1)
    kept = generator.sample(1, faulty="keep")
    for use in (kept.to_item, kept.to_monai, kept.to_torchio, lambda: kept.save(tmp_path)):
        with pytest.raises(FaultySampleError):
            use()
    assert "FAULTY" not in repr(kept)
    assert "blank" in repr(kept)
    for call, value in ((generator.generate, "drop"), (generator.sample, "skip")):
        with pytest.raises(UsageError, match=f"faulty '{value}': allowed: raise, "):
            call(1, faulty=value)


def test_a_sample_without_a_tumour_is_faulty(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Growing(generator.bundle.manifest.grid.shape)
    monkeypatch.setattr(stub, "volume", lambda number, attempt: replace(
        Growing.volume(stub, number, attempt), label=np.zeros(stub.shape, np.uint8)
    ))  # fmt: skip
    monkeypatch.setattr("sbldm.engine.generator.open_loop", lambda *_: stub)
    (sample,) = generator.generate(1, faulty="keep")
    assert sample.fault == "its mask is empty, a tumour was asked for"


def test_threads_share_a_generator(generator: Generator) -> None:
    expected = [s.image for s in generator.generate(4, seed=2, steps=2)]
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda k=k: found.update({k: generator.sample(k, seed=2, steps=2).image}))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[k], expected[k]) for k in range(4))


def test_cancel_and_stop_end_what_runs_and_nothing_later(generator: Generator) -> None:
    stream = generator.generate(100, steps=2)
    first = next(stream)
    generator.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    assert np.array_equal(generator.sample(0, steps=2).image, first.image)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        generator.sample(0, steps=2, stop=stop)


def test_a_closed_generator_refuses(generator: Generator) -> None:
    stream = generator.generate(2, steps=2)
    generator.close()
    with pytest.raises(Cancelled):
        next(stream)
    with pytest.raises(UsageError, match="closed"):
        generator.sample(0)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"volume": 3}], "volume"),
        ([{"volume_ml": 20}, {"volume_ml": -1}], "conditions:2: volume_ml"),
        ([], "no rows"),
        ([{"volume_ml": "much"}], "conditions:1: volume_ml: 'much': a number"),
        (["volume_ml"], "conditions:1: row"),
        ([{"id": 3}], "conditions:1: id: 3: a text"),
        ([{"id": "a"}, {"id": "b"}, {"id": "a"}], "conditions:3: id: a: each id once; it is already in row 1"),
        ([{"id": "a\nb"}], "conditions:1: id: .*one line of printable text"),
        ([{"volume": 3}, {"volume_ml": None}], "conditions:2: volume_ml: None: a number"),
        ([{"ncr_share": 0.9, "ed_share": 0.9, "et_share": 0.1}], "conditions:1"),
    ],
)
def test_bad_rows_are_refused_at_the_call(generator: Generator, rows, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        generator.generate(conditions=rows)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"count": 0}, "^count 0: must be 1 or more$"),
        ({}, "give count N, conditions FILE or both"),
        ({"count": 1, "seed": -1}, "^seed -1: must be from 0"),
        ({"count": 1, "seed": "7"}, "^seed '7': must be a whole number$"),
        ({"count": 1, "steps": 0}, "^steps 0: must be from 1 to 1000$"),
        ({"count": 1, "steps": 2.5}, "^steps 2.5: must be a whole number$"),
        ({"count": 1, "steps": True}, "^steps True: must be a whole number$"),
        ({"count": 1, "sampler": "x"}, "^sampler x: allowed: ddim, dpmpp-2m, fitted$"),
        ({"count": 1, "stop": 5}, "^stop 5: must be an event"),
        ({"count": 1, "conditions": 5}, "^conditions 5: must be the path"),
        (
            {"count": 1, "step": 5},
            "no argument step, perhaps steps; .*count, conditions, masks, stop, faulty, seed",
        ),
        ({"count": 1, "layout": "nunet"}, "layout is no argument here"),
        ({"count": 1, "batch_size": 2}, "batch_size is no argument here"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(generator: Generator, options: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        generator.generate(**options)


def test_every_call_names_a_wrong_argument_and_its_own(generator: Generator) -> None:
    case = np.zeros((4, 16, 16, 8), np.int16), np.zeros((16, 16, 8), np.uint8)
    calls = [
        (lambda: generator.sample(0, sed=1), "no argument sed, perhaps seed"),
        (lambda: generator.sample("0"), "sample '0': must be a whole number"),
        (lambda: generator.sample(True), "sample True"),
        (lambda: generator.sample(), "missing a required argument: 'index'; its arguments are index"),
        (lambda: generator.augment(*case, strengths=0.5), "no argument strengths, perhaps strength"),
        (lambda: generator.augment(*case, "0.5", 1), "strength '0.5': must be a number"),
        (lambda: generator.augment([1], case[1], 0.5, 1), "image: must be an array"),
        (lambda: generator.generate(1, None), "too many positional arguments"),
        (lambda: Generator.load("phantom", devise="cpu"), "no argument devise, perhaps device"),
        (lambda: Generator.load("phantom", threads="2"), "threads '2': must be a whole number"),
        (lambda: Generator.load("phantom", batch_size="auto"), "batch_size 'auto': must be a whole number"),
        (lambda: Generator.load("phantom", batch_size=0), "batch_size 0: must be"),
        (lambda: Generator.load("phantom", backend="jax"), "^backend jax: allowed"),
        (lambda: Generator.load(5), "bundle 5: must be the name"),
        (lambda: Generator(generator.bundle, generator.backend, batchsize=2), "no argument batchsize"),
    ]
    for call, named in calls:
        with pytest.raises(UsageError, match=named):
            call()


def test_numpy_numbers_are_numbers(generator: Generator) -> None:
    ours = generator.sample(np.int64(1), seed=np.uint64(3), steps=np.int32(2), eta=np.float32(0.5))
    assert np.array_equal(ours.image, generator.sample(1, seed=3, steps=2, eta=0.5).image)


def test_strength_zero_is_the_reconstruction_and_one_forgets_the_case(generator: Generator) -> None:
    case = generator.sample(0, seed=4, steps=2)
    other = generator.sample(1, seed=4, steps=2)
    zero = list(generator.augment(case.image, case.label, 0.0, 2, seed=1, steps=4))
    assert np.array_equal(zero[0].image, zero[1].image)
    assert not np.array_equal(
        zero[0].image, next(generator.augment(other.image, other.label, 0.0, 1, seed=1, steps=4)).image
    )
    half = next(generator.augment(case.image, case.label, 0.5, 1, seed=1, steps=4))
    whole = next(generator.augment(case.image, case.label, 1.0, 1, seed=1, steps=4))
    free = next(generator.generate(1, seed=1, steps=4))

    def distance(a, b) -> float:
        return float(np.abs(a.image.astype(float) - b.image).mean())

    assert distance(half, zero[0]) > 0
    assert distance(whole, free) < distance(zero[0], free)


def test_cases_that_do_not_fit_are_refused(generator: Generator) -> None:
    case = generator.sample(0, steps=1)
    with pytest.raises(UsageError, match="strength"):
        generator.augment(case.image, case.label, 1.5, 1)
    with pytest.raises(InvalidInputError, match=r"not \(4, 16, 16, 8\)"):
        generator.augment(case.image[:, :8], case.label[:8], 0.5, 1)
    with pytest.raises(InvalidInputError, match="label 9"):
        generator.augment(case.image, np.full_like(case.label, 9), 0.5, 1)


def test_a_generator_pickles_by_its_arguments(tiny_bundle: Bundle) -> None:
    with Generator.load(tiny_bundle.path, threads=1, batch_size=2) as generator:
        copy = pickle.loads(pickle.dumps(generator))
        assert (copy.bundle.sha256, copy.backend.threads, copy.batch_size) == (tiny_bundle.sha256, 1, 2)
        one, other = generator.sample(1, steps=1), copy.sample(1, steps=1)
        np.testing.assert_array_equal(one.image, other.image)
    with pytest.raises(UsageError, match="closed"):
        pickle.dumps(generator)

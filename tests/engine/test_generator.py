from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.generator import Cancelled, Generator


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


def test_reject_keeps_the_nearest(generator: Generator) -> None:
    plain = generator.sample(0, seed=1, steps=2)
    kept = generator.sample(0, seed=1, steps=2, reject=0.01, attempts=3)
    error = [abs(s.measured.volume_ml / s.requested["volume_ml"] - 1) for s in (kept, plain)]
    assert error[0] <= error[1]
    assert 0 <= kept.attempt <= 3


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
        ([{"ncr_share": 0.9, "ed_share": 0.9, "et_share": 0.1}], "conditions:1"),
    ],
)
def test_bad_rows_are_refused_at_the_call(generator: Generator, rows, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        generator.generate(conditions=rows)


@pytest.mark.parametrize(
    "options", [{"count": 0}, {}, {"count": 1, "seed": -1}, {"count": 1, "steps": 0}, {"count": 1, "sampler": "x"}]
)
def test_bad_options_are_refused_at_the_call(generator: Generator, options) -> None:
    with pytest.raises(UsageError):
        generator.generate(**options)


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

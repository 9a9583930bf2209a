from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.manifest import MODALITIES, Grid
from sbldm.engine.conditions.adherence import adherence
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.output.measure import measure_tumour
from sbldm.engine.output.preview import Scan, cropped, panels
from sbldm.train.data.cohort import CachedCase, Cohort
from sbldm.train.data.twins import refuse_twins
from sbldm.train.evaluation.adherence import errors, requested_and_measured
from sbldm.train.evaluation.autoencoder import Autoencoder, SliceAutoencoder
from sbldm.train.evaluation.diversity import ms_ssim_diversity
from sbldm.train.evaluation.fid import FeatureNetwork, frechet_distance, gaussian_distance
from sbldm.train.evaluation.fidelity import (
    characteristic_distances,
    coherence,
    describe_cohort,
    histogram_distance,
    intensity_distances,
)
from sbldm.train.evaluation.plots import three_views
from sbldm.train.evaluation.reconstruction import dice, high_frequency_energy, psnr, reconstruction, ssim
from sbldm.train.evaluation.report import plain
from sbldm.train.evaluation.run import real_samples
from sbldm.train.evaluation.scorecard import table
from sbldm.train.evaluation.volumes import brain_of, largest_piece_share, neighbour_difference
from scipy.stats import wasserstein_distance

GRID = Grid((32, 32, 16), (1.5, 1.5, 2.4))
Z, X, Y = np.meshgrid(np.arange(16), np.arange(32), np.arange(32), indexing="ij")


def volume(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Stored images (z, 4, x, y) and label (z, x, y): an ellipsoid of brain with a lump of three tissues."""
    rng = np.random.default_rng(seed)
    brain = ((Z - 7.5) / 7) ** 2 + ((X - 15.5) / 13) ** 2 + ((Y - 15.5) / 14) ** 2 < 1
    at = rng.uniform(-3, 3, 3) + np.array([7.5, 15.5, 15.5])
    radius = np.sqrt((1.6 * (Z - at[0])) ** 2 + (X - at[1]) ** 2 + (Y - at[2]) ** 2)
    size = rng.uniform(0.8, 1.2)
    label = np.select([radius < 2 * size, radius < 3 * size, radius < 5 * size], [1, 3, 2], 0).astype(np.uint8)
    texture = rng.normal(110, 12, (4, *brain.shape)) + 20 * label
    images = np.where(brain | (label > 0), texture.clip(20, 255), 0).astype(np.uint8)
    return np.moveaxis(images, 0, 1), label


def cohort_of(folder: Path, volumes: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Cohort:
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, (slices, label) in volumes.items():
        path = folder / f"{name}.npy"
        np.save(path, np.concatenate([slices, label[:, None]], axis=1))
        measured = measure_tumour(np.moveaxis(label, 0, -1), GRID.spacing_mm).vector(COLUMNS)
        entries.append(CachedCase(name, path, (1.0,) * 4, tuple(measured)))
    return Cohort(GRID, MODALITIES, tuple(entries))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("train"), {f"T{seed}": volume(seed) for seed in range(10)})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("real"), {f"R{seed}": volume(100 + seed) for seed in range(6)})


class Pooling:
    """A backend whose autoencoder averages blocks of 4 x 4 pixels and keeps the labels of one pixel each."""

    name = device = precision = version = "test"
    threads = 1

    def __init__(self) -> None:
        self.positions: list[int] = []

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if component == "encoder":
            self.positions += inputs["position"].tolist()
            s, m, x, y = inputs["image"].shape
            pooled = inputs["image"].reshape(s, m, x // 4, 4, y // 4, 4).mean((3, 5))
            return {"latent": np.concatenate([pooled, inputs["label"][:, :, ::4, ::4]], axis=1)}
        if component == "aggregator_encode":
            return {"latent": np.moveaxis(inputs["slices"], 1, 2)}
        if component == "aggregator":
            return {"slices": np.moveaxis(inputs["latent"], 2, 1)}
        if component == "decoder":
            full = np.repeat(np.repeat(inputs["latent"], 4, 2), 4, 3)
            return {"image": full[:, :4], "label_logits": full[:, 4:]}
        assert component == "refiner"
        assert inputs["label"].shape[2] == 4
        return {"refined": inputs["image"] * np.float32(1.5)}


def autoencoder(*, refiner: bool = True) -> Autoencoder:
    components = dict.fromkeys(["encoder", "decoder", *(["refiner"] if refiner else [])])
    manifest = SimpleNamespace(
        labels=("background", "ncr", "ed", "et"), background_threshold=0.04, components=components
    )
    return SliceAutoencoder(Pooling(), manifest)  # type: ignore[arg-type]


def test_the_brain_is_the_largest_piece_with_its_holes() -> None:
    slices, _ = volume(0)
    slices[7:9, :, 15:17, 15:17] = 0
    slices[0, :, 0, 0] = 255
    brain = brain_of(slices)
    assert brain[7, 15, 15]
    assert not brain[0, 0, 0]
    assert brain.sum() == ((slices.max(1) > 0).sum() - 1 + 8)


def test_neighbour_differences_see_stripes_along_their_own_axis_only() -> None:
    slices = np.full((8, 2, 10, 12), 100, np.uint8)
    brain = np.ones((8, 10, 12), bool)
    slices[::2] += 51
    assert neighbour_difference(slices, brain, 0) == pytest.approx(51 / 255)
    assert neighbour_difference(slices, brain, 1) == 0
    assert neighbour_difference(slices, brain, 2) == 0
    assert np.isnan(neighbour_difference(slices, np.zeros_like(brain), 0))


def test_largest_piece_share() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[0, 0, :3] = True
    mask[4, 4, 4] = True
    assert largest_piece_share(mask) == 0.75
    assert np.isnan(largest_piece_share(np.zeros_like(mask)))


def test_the_same_cohort_is_at_distance_nothing(real: Cohort) -> None:
    described = describe_cohort(real)
    assert {ratio["value"] for name, ratio in coherence(described, described).items() if name != "mask_change"} == {1}
    distances = intensity_distances(described, described, MODALITIES)
    assert {found["value"] for tissue in distances.values() for found in tissue.values()} == {0}
    assert all(v["distance"] == 0 for v in characteristic_distances(real.conditions, real.conditions).values())


def test_histograms_are_as_far_apart_as_scipy_says() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 50, (3, 256)).astype(float), rng.integers(0, 50, (5, 256)).astype(float)
    levels = np.arange(256) / 255
    expected = wasserstein_distance(levels, levels, first.sum(0), second.sum(0))
    assert histogram_distance(first, second) == pytest.approx(expected)


def test_striped_and_brighter_volumes_are_told(real: Cohort, tmp_path: Path) -> None:
    striped = {}
    for name in real.cases:
        slices, label = np.array(real.slices(name)), np.array(real.label(name))
        inside = slices > 0
        slices[::2] = np.where(inside[::2], np.minimum(slices[::2].astype(int) + 51, 255), 0)
        striped[name] = (slices, label)
    figures = (describe_cohort(real), describe_cohort(cohort_of(tmp_path, striped)))
    found = coherence(*figures)
    assert found["slice_difference_ratio"]["low"] > 2
    assert found["tumour_slice_difference_ratio"]["value"] > 1.5
    assert found["in_plane_difference_ratio"]["high"] < 1.1
    assert found["mask_change"]["ratio"]["value"] == 1
    distance = intensity_distances(*figures, MODALITIES)["healthy"]["t1"]["value"]
    assert distance == pytest.approx(0.1, abs=0.02)  # half of the voxels moved by 0.2


def test_figures_do_not_depend_on_names_or_order(training: Cohort) -> None:
    shuffled = training.subset(list(reversed(range(len(training)))))
    assert ms_ssim_diversity(shuffled, 5) == ms_ssim_diversity(training, 5)


def test_held_out_cases_that_were_trained_on_are_refused(real: Cohort, training: Cohort) -> None:
    refuse_twins(real, training, "--real", "leave them out of it")
    renamed = replace(training.entries[3], name="renamed")
    leaky = Cohort(real.grid, real.modalities, (*real.entries, renamed))
    with pytest.raises(InvalidInputError, match=r"--real: 1 .* in training:\n  renamed is T3, or has its"):
        refuse_twins(leaky, training, "--real", "leave them out of it")


def test_samples_that_are_real_cases_are_told(real: Cohort, training: Cohort) -> None:
    renamed = replace(real.entries[1], name="renamed")
    samples = Cohort(real.grid, real.modalities, (*training.entries, renamed))
    assert real_samples(real, samples) == ["renamed"]
    assert real_samples(real, training) == real_samples(None, samples) == real_samples(real, None) == []
    told = {"inputs": {"real": {"cases": 2}, "synthetic": {"cases": 3}, "train": None, "equal_to_real": ["renamed"]}}
    assert re.search(r"\| samples with the images of a real case, such as renamed +\| 1 +\|", table(told))


def test_copies_of_one_case_have_no_diversity(real: Cohort) -> None:
    same = real.subset([0, 0, 0])
    found, copies = ms_ssim_diversity(real, 5), ms_ssim_diversity(same, 5)
    assert found is not None
    assert copies is not None
    assert copies["mean"] == pytest.approx(1, abs=1e-4)
    assert copies["pairs"] == 3
    assert found["low"] <= found["mean"] <= found["high"] < copies["mean"] - 0.02
    assert found["pairs"] == 5
    assert ms_ssim_diversity(real.subset([0]), 5) is None


def manifest(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    head = "id,requested_volume_ml,measured_volume_ml,requested_x,measured_x"
    path.write_text("\n".join([head, *(f"s{k},{','.join(row)}" for k, row in enumerate(rows))]) + "\n")
    return path


def test_adherence_of_a_manifest(tmp_path: Path) -> None:
    path = manifest(
        tmp_path / "m.csv", [("10", "11", "0.5", "0.5"), ("20", "18", "0.5", ""), ("40", "44", "0.5", "0.4")]
    )
    found = adherence(requested_and_measured(path))
    assert found["volume_ml"]["median_relative_error"] == pytest.approx(0.1)
    assert found["volume_ml"]["median_error"] == pytest.approx(2)
    assert found["volume_ml"]["r"] == pytest.approx(np.corrcoef([10, 20, 40], [11, 18, 44])[0, 1])
    assert found["x"]["samples"] == 2
    assert found["x"]["r"] is None
    assert set(found) == {"volume_ml", "x"}


def test_bias_and_scatter_of_conditions_are_told_apart(tmp_path: Path) -> None:
    path = manifest(
        tmp_path / "m.csv", [("10", "12", "0.5", "0.4"), ("20", "22", "0.5", "0.6"), ("40", "52", "0.5", "")]
    )
    found = errors(requested_and_measured(path))
    relative = np.array([0.2, 0.1, 0.3])
    assert found["volume_ml"]["relative"]
    assert found["volume_ml"]["bias"]["value"] == pytest.approx(relative.mean())
    assert found["volume_ml"]["scatter"]["value"] == pytest.approx(relative.std())
    assert found["volume_ml"]["bias"]["low"] > 0
    assert not found["x"]["relative"]
    assert found["x"]["bias"]["value"] == pytest.approx(0)
    assert found["x"]["scatter"]["value"] == pytest.approx(0.1)
    assert found["x"]["bias"]["n"] == 2


def test_correlations_have_intervals_and_need_what_varies() -> None:
    rng = np.random.default_rng(3)
    requested = rng.random(40)
    measured = requested + rng.normal(0, 0.2, 40)
    still = np.stack([np.full(40, 0.5), measured], axis=1)
    found = errors({"x": np.stack([requested, measured], axis=1), "y": still, "z": still[:1]})
    r = found["x"]["r"]
    assert r["value"] == pytest.approx(np.corrcoef(requested, measured)[0, 1])
    assert r["low"] < r["value"] < r["high"] < 1
    assert r["high"] - r["low"] == pytest.approx(0.22, abs=0.1)
    assert (found["y"]["r"]["value"], found["y"]["r"]["low"], found["z"]["r"]["value"]) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,requested_x,measured_x\na,1,b\n", "m.csv:2: measured_x: 'b' is not a number"),
        ("id,requested_x,measured_x\n", "holds no sample"),
        ("id,x\na,1\n", "no pair of columns"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        requested_and_measured(tmp_path / "m.csv")


def test_encoding_takes_every_slice_at_its_position(real: Cohort) -> None:
    model = autoencoder()
    latents = model.encode(np.asarray(real.slices(0)), np.asarray(real.label(0)))
    assert latents.shape == (16, 8, 8, 8)
    assert model._backend.positions == list(range(16))  # type: ignore[attr-defined]


def test_reconstruction_figures(real: Cohort) -> None:
    found = reconstruction(real, autoencoder())
    assert list(found["cases"]) == list(real.cases)
    coarse, refined, dice = ({n: f["value"] for n, f in found[part].items()} for part in ("coarse", "refined", "dice"))
    assert 10 < coarse["psnr"] < 40
    assert coarse["psnr_brain"] < coarse["psnr"]
    assert 0.1 < coarse["ssim"] < 1
    assert coarse["high_frequency_ratio"] < 0.5
    assert refined["psnr"] != coarse["psnr"]
    assert 0.5 < dice["wt"] < 1
    figure = found["coarse"]["psnr"]
    each = [one["coarse"]["psnr"] for one in found["cases"].values()]
    assert min(each) <= figure["low"] <= figure["value"] <= figure["high"] <= max(each)
    assert figure["n"] == len(real)
    assert reconstruction(real, autoencoder(refiner=False))["refined"] is None


def test_background_of_a_reconstruction_is_exactly_minus_one(real: Cohort) -> None:
    made = autoencoder().reconstruct(np.asarray(real.slices(0)), np.asarray(real.label(0)))
    assert (made.coarse[:, :, 0, 0] == -1).all()
    assert made.coarse.min() == -1
    assert made.refined is not None
    assert made.refined.max() <= 1


def test_psnr_ssim_and_energy_of_known_images() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (8, 2, 16, 16)).astype(np.float32)
    assert psnr(image, image + np.float32(0.2)) == pytest.approx(20, abs=1e-3)
    assert ssim(image, image) == pytest.approx(1)
    everywhere = np.ones((8, 16, 16), bool)
    ratio = high_frequency_energy(2 * image, everywhere) / high_frequency_energy(image, everywhere)
    assert ratio == pytest.approx(4, rel=1e-5)
    assert high_frequency_energy(np.ones_like(image), everywhere) == pytest.approx(0, abs=1e-9)


def test_dice_of_known_masks() -> None:
    first = np.array([0, 1, 3, 2, 2, 0], np.uint8)
    second = np.array([0, 1, 2, 2, 0, 0], np.uint8)
    assert dice(first, second, (1, 2, 3)) == pytest.approx(2 * 3 / 7)
    assert dice(first, second, (3,)) == 0
    assert np.isnan(dice(first, second, (7,)))


def feature_network(path: Path) -> Path:
    """Mean and range of an image of 24 x 24, as an ONNX graph."""
    nodes = (
        [onnx.helper.make_node(kind, ["image", "axes"], [kind], keepdims=0) for kind in ("ReduceMean", "ReduceMax")]
        + [onnx.helper.make_node("Unsqueeze", [kind, "one"], [f"{kind}1"]) for kind in ("ReduceMean", "ReduceMax")]
        + [onnx.helper.make_node("Concat", ["ReduceMean1", "ReduceMax1"], ["features"], axis=1)]
    )
    graph = onnx.helper.make_graph(
        nodes,
        "features",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 24, 24])],
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("axes", [1, 2, 3]), ("one", [1]))],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_fid_by_a_network_of_the_user(real: Cohort, training: Cohort, tmp_path: Path) -> None:
    network = FeatureNetwork(feature_network(tmp_path / "features.onnx"))
    same, other = (frechet_distance(real, cohort, network)["distance"] for cohort in (real, training))
    assert set(same) == set(MODALITIES)
    assert all(abs(value) < 1e-6 for value in same.values())
    assert other["t1"] > 0


def test_fid_of_fewer_images_than_features_is_not_told(
    real: Cohort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = FeatureNetwork(feature_network(tmp_path / "features.onnx"))
    monkeypatch.setattr("sbldm.train.evaluation.fid.SLICES_PER_CASE", 1)
    found = frechet_distance(real.subset([0, 1]), real, network)
    assert found["distance"] is None
    assert found["images"] == [2, len(real)]
    assert "2 images for 2 features" in found["reason"]


def test_networks_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInputError, match="cannot load"):
        FeatureNetwork(tmp_path / "broken.onnx")
    with pytest.raises(InvalidInputError, match="no such file"):
        FeatureNetwork(tmp_path / "absent.onnx")


def test_frechet_distance_of_gaussians_by_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 3))
    base = (base - base.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(base, rowvar=False))).T
    first, second = base * [1, 2, 3], base * [2, 2, 1] + [1, 0, 0]
    expected = 1 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2  # diagonal covariances: distances of means and of deviations
    assert gaussian_distance(first, second) == pytest.approx(expected)


def test_figures_become_json_whatever_they_hold() -> None:
    text = json.dumps(plain({"a": float("nan"), "b": (1, float("inf")), "c": {"d": 2.5}}), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [1, None], "c": {"d": 2.5}}


def test_the_table_says_what_was_not_measured() -> None:
    inputs = {"real": {"cases": 3}, "synthetic": None, "train": None, "synthetic_left_out": {}, "modalities": ["t1"]}
    text = table({"inputs": inputs, "not_measured": {"memorisation": "no --train DIR was given"}})
    assert "| real | 3     |" in text
    assert "- memorisation: no --train DIR was given" in text


def test_pictures_of_an_evaluation_are_drawn_as_previews_are(real: Cohort) -> None:
    figure, case = three_views({"real": real}), real.cases[0]
    image = np.asarray(real.slices(case)).transpose(1, 2, 3, 0) / np.float32(255)
    scan = Scan(image, np.asarray(real.label(case)).transpose(1, 2, 0), real.grid.spacing_mm)
    wanted = panels(cropped([scan])[0])
    shown = [ax.images[0].get_array() for ax in figure.axes[: len(wanted)]]
    assert all(np.array_equal(np.rint(ours), theirs) for ours, theirs in zip(wanted, shown, strict=True))

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sbldm.engine.adapters import SyntheticDataset, monai_item, to_item, torchio_subject
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import UsageError
from sbldm.engine.generator import Generator


@pytest.fixture
def data(tiny_bundle: Bundle) -> SyntheticDataset:
    rows = [{"volume_ml": 20.0}, {"volume_ml": 30.0}]
    return SyntheticDataset(4, bundle=tiny_bundle.path, conditions=rows, seed=3, steps=2, threads=1)


def test_items_are_the_samples(data: SyntheticDataset, tiny_bundle: Bundle) -> None:
    with Generator.load(tiny_bundle.path, threads=1) as generator:
        sample = generator.sample(3, conditions=[{"volume_ml": 20.0}, {"volume_ml": 30.0}], seed=3, steps=2)
    item = data[3]
    assert len(data) == 4
    assert np.array_equal(item["image"], sample.image / np.float32(1000))
    assert item["image"].dtype == np.float32
    assert np.array_equal(item["label"][0], sample.label)
    assert np.array_equal(data[-1]["image"], item["image"])
    with pytest.raises(IndexError):
        data[4]
    with pytest.raises(UsageError, match="count"):
        SyntheticDataset(0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"step": 2}, "no argument step, perhaps steps; .*transform, backend"),
        ({"steps": 2.5}, "^steps 2.5: must be a whole number$"),
        ({"threads": "1", "seed": "7"}, "(?s)seed '7'.*threads '1'"),
        ({"layout": "nnunet"}, "layout is no argument here"),
    ],
)
def test_wrong_arguments_are_refused_when_the_data_set_is_made(options: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        SyntheticDataset(4, **options)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_of_pytorch(data: SyntheticDataset, workers: int) -> None:
    from sbldm.engine.adapters import StreamDataset
    from torch.utils.data import DataLoader

    expected = {k: data[k]["image"] for k in range(4)}
    loaders = (
        DataLoader(
            data, batch_size=2, num_workers=min(workers, 1), multiprocessing_context="spawn" if workers else None
        ),
        DataLoader(
            StreamDataset(data), batch_size=1, num_workers=workers, multiprocessing_context="spawn" if workers else None
        ),
    )
    for loader in loaders:
        found = {}
        for batch in loader:
            found |= dict(zip(batch["index"].tolist(), batch["image"].numpy(), strict=True))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[k], expected[k]) for k in expected)


def test_a_data_set_that_has_run_can_be_pickled(data: SyntheticDataset) -> None:
    first = data[0]["image"]
    assert np.array_equal(pickle.loads(pickle.dumps(data))[0]["image"], first)


def test_monai_takes_the_items(tiny_bundle: Bundle) -> None:
    from monai.data import Dataset
    from monai.transforms import Compose, Orientationd, RandFlipd

    data = SyntheticDataset(2, bundle=tiny_bundle.path, steps=1, threads=1, transform=monai_item)
    flips = Compose(
        [Orientationd(keys=["image", "label"], axcodes="LPS"), RandFlipd(keys=["image", "label"], prob=0.0)]
    )
    item = Dataset(data, flips)[1]
    assert np.array_equal(np.asarray(item["image"]), np.asarray(data[1]["image"])[:, ::-1, ::-1])
    assert np.allclose(np.diag(item["image"].affine)[:2], [-12.0, -12.0])


def test_torchio_takes_the_items(tiny_bundle: Bundle) -> None:
    data = SyntheticDataset(1, bundle=tiny_bundle.path, steps=1, threads=1)
    subject = torchio_subject(data[0])
    assert subject.image.orientation == ("R", "A", "S")
    assert np.allclose(subject.image.spacing, tiny_bundle.manifest.grid.spacing_mm)
    assert np.array_equal(subject.label.data.numpy(), data[0]["label"])


def test_importing_the_adapters_imports_no_torch() -> None:
    code = "import sys, sbldm.engine.adapters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> None:
    with Generator.load(tiny_bundle.path, threads=1) as generator:
        item = to_item(generator.sample(0, steps=1))
    for package, call in (("monai.data.meta_tensor", monai_item), ("torchio", torchio_subject)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match="pip install"):
            call(item)

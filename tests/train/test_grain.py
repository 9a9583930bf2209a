"""How much fine noise a cohort has beyond what its autoencoder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.train import grain
from sbldm.train.config import MaskFirstConfig, load_preset
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.grain import load_grain, measured_grain, save_grain
from sbldm.train.mask_first import make_slab_autoencoder
from sbldm.train.networks.slab_autoencoder import SlabAutoencoder

from tests.support.scans import arrays, write_case

DEVIATIONS = np.array([[0.01, 0.05], [0.04, 0.02], [0.03, 0.03], [0.02, 0.06]])


def autoencoder() -> SlabAutoencoder:
    config = load_preset("glioma")
    assert isinstance(config, MaskFirstConfig)
    return make_slab_autoencoder(config)


def test_the_line_of_the_noise_is_found_and_vessels_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "data", "A", arrays(tumour=(32.0, 20.0, 10.0)))
    cohort = prepare_cohort(tmp_path / "data", tmp_path / "cache", Grid((32, 32, 16), (6.0, 6.0, 9.6)))
    rng = np.random.default_rng(0)
    seen = rng.uniform(0.05, 0.95, (4, 32, 32, 16)).astype(np.float32)
    dark, bright = DEVIATIONS.T[:, :, None, None, None]
    scan = seen + (dark * (1 - seen) + bright * seen) * rng.standard_normal(seen.shape)
    scan[:, ::5, ::5, ::5] += 0.9
    monkeypatch.setattr(grain, "reconstructed", lambda *_: seen)
    monkeypatch.setattr(grain, "case_image", lambda *_: scan)
    found = measured_grain(autoencoder(), cohort, 4)
    np.testing.assert_allclose(found, DEVIATIONS, atol=0.004)


def test_scans_are_measured_and_phantoms_beside_them_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "AB":
        write_case(tmp_path / "data", name, arrays(tumour=(32.0, 20.0, 10.0)))
    cohort = prepare_cohort(tmp_path / "data", tmp_path / "cache", Grid((32, 32, 16), (6.0, 6.0, 9.6)))
    looked_at: list[int] = []

    def looked(_: Any, case: int) -> NDArray[np.float32]:
        looked_at.append(case)
        return np.zeros((4, 32, 32, 16), np.float32)

    monkeypatch.setattr(grain, "case_image", looked)
    monkeypatch.setattr(grain, "real_cases", lambda _: np.array([False, True]))
    measured_grain(autoencoder(), cohort, 4)
    assert looked_at == [1]


def test_grain_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"grain\.json: missing; train the stage denoiser"):
        load_grain(tmp_path)
    save_grain(tmp_path, ((0.5, 0.25), (0.125, 1.0)))
    assert load_grain(tmp_path) == ((0.5, 0.25), (0.125, 1.0))

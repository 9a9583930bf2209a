"""What the gate says of an autoencoder that does not give its training cases back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.sampling.types import Arrays, RunComponent
from sbldm.export.reconstruction import correlation, reconstruction_faults
from sbldm.train.config import SystemConfig

from tests.support.tiny import tiny_system_config

CASES = 3


@pytest.fixture
def config() -> SystemConfig:
    return tiny_system_config()


@pytest.fixture
def directory(tmp_path: Path, config: SystemConfig) -> Path:
    """Latents and prepared cases of a cohort; each case's latent holds its number."""
    depth, shape = config.grid.shape[2], config.slice_shape
    latents = np.zeros((CASES, 2, depth, *shape), np.float16) + np.arange(CASES).reshape(-1, 1, 1, 1, 1, 1)
    names = [f"C{case}.settings.hash.npy" for case in range(CASES)]
    for folder in ("latents", "cache"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "latents" / "latents.npy", latents)
    (tmp_path / "latents" / "key.json").write_text(json.dumps({"cases": names}))
    for case, name in enumerate(names):
        np.save(tmp_path / "cache" / name, stored(case, config))
    return tmp_path


def stored(case: int, config: SystemConfig) -> np.ndarray:
    x, y, z = config.grid.shape
    array = np.random.default_rng(case).integers(1, 255, (z, 5, x, y)).astype(np.uint8)
    array[:, :, :3] = 0
    return array


def decoder(config: SystemConfig, spoilt: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> RunComponent:
    """Gives back the images of the case that a latent names, with a little noise."""

    def run(component: str, inputs: Arrays) -> Arrays:
        assert component == "decoder"
        case = int(inputs["latent"].flat[0])
        image = stored(case, config)[inputs["position"], :4] / 127.5 - 1
        noise = np.random.default_rng(9).normal(0, 0.1, image.shape)
        logits = np.zeros((len(image), 4, *image.shape[2:]), np.float32)
        return {"image": spoilt(image + noise).astype(np.float32), "label_logits": logits}

    return run


def test_cases_that_come_back_have_no_fault(directory: Path, config: SystemConfig) -> None:
    assert reconstruction_faults(directory, config, decoder(config)) == []


def collapsed(image: np.ndarray) -> np.ndarray:
    return np.zeros_like(image)


def one_modality(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[:, :1], -image[:, 1:2], image[:, 2:]], axis=1)


@pytest.mark.parametrize(("spoilt", "faults", "modality"), [(collapsed, 8, "t1"), (one_modality, 2, "t1ce")])
def test_what_does_not_come_back_is_told(
    directory: Path, config: SystemConfig, spoilt: Callable[[np.ndarray], np.ndarray], faults: int, modality: str
) -> None:
    found = reconstruction_faults(directory, config, decoder(config, spoilt))
    assert len(found) == faults
    assert found[0].startswith(f"training case C0: its {modality} and what the decoder makes of it correlate by ")


def test_cases_that_are_kept_elsewhere_are_not_looked_at(directory: Path, config: SystemConfig) -> None:
    (directory / "cache" / "C0.settings.hash.npy").unlink()
    found = reconstruction_faults(directory, config, decoder(config, collapsed))
    assert {fault.split(":")[0] for fault in found} == {"training case C1"}
    (directory / "latents" / "key.json").unlink()
    assert reconstruction_faults(directory, config, decoder(config, collapsed)) == []


def test_correlation_is_that_within_the_brain() -> None:
    image = np.arange(1, 101, dtype=np.uint8).reshape(1, 10, 10)
    made = image / 50.0 - 1
    outside = np.concatenate([image, np.zeros_like(image)]), np.concatenate([made, 50 * np.ones_like(made)])
    assert correlation(outside[1], outside[0]) == pytest.approx(1.0)
    assert correlation(-made, image) == pytest.approx(-1.0)
    assert correlation(np.ones_like(made), image) == 0.0

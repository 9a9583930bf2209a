"""A case through the encoder and the decoder of a bundle that makes the mask first."""

from __future__ import annotations

import numpy as np
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.scans.prepare import to_unit
from sbldm.train.evaluation.autoencoder import autoencoder_of


def test_a_reconstruction_is_what_the_decoder_shows_and_has_no_grain(tiny_mask_first_bundle: Bundle) -> None:
    backend = choose_backend(tiny_mask_first_bundle, "onnxruntime", threads=1)
    x, y, z = tiny_mask_first_bundle.manifest.grid.shape
    slices = np.random.default_rng(0).integers(1, 255, (z, 4, x, y)).astype(np.uint8)
    label = np.zeros((z, x, y), np.uint8)
    label[5:8, 10:14, 12:15] = 2
    autoencoder = autoencoder_of(backend, tiny_mask_first_bundle.manifest)
    made = autoencoder.reconstruct(slices, label)
    latent = autoencoder.encode(slices, label)
    features = backend.run("aggregator", {"latent": latent[None]})["features"][0]
    shown = backend.run("decoder", {"features": features})["image"].reshape(z, 4, x, y)
    inside = label > 0
    expected = np.clip(shown, to_unit(np.array([1], np.uint8))[0], 1).transpose(0, 2, 3, 1)[inside]
    np.testing.assert_allclose(made.coarse.transpose(0, 2, 3, 1)[inside], expected, atol=0.002)

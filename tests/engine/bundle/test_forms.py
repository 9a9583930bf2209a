"""The form of a bundle: what each must say of itself, and that bundles from before there were two still load."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.anatomy.anatomies import anatomies_sha256
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.bundle.manifest import MANIFEST_NAME, MaskFirst, MaskMaps, SamplingDefaults
from sbldm.engine.bundle.parse import parse_manifest
from sbldm.engine.errors import InvalidInputError

from tests.engine.bundle.test_fuzz import JSON_VALUES

Data = dict[str, Any]


def data_of(bundle: Bundle) -> Data:
    return json.loads((bundle.path / MANIFEST_NAME).read_bytes())


def parsed(data: Data) -> Any:
    return parse_manifest(json.dumps(data).encode(), "bundle.json")


def test_a_bundle_of_the_first_version_is_one_of_slices(tiny_bundle: Bundle) -> None:
    data = data_of(tiny_bundle)
    assert (data["schema_version"], data["form"], data["mask_first"]) == (2, "slices", None)
    old = {key: value for key, value in data.items() if key not in ("form", "mask_first")} | {"schema_version": 1}
    assert parsed(old) == tiny_bundle.manifest
    with pytest.raises(InvalidInputError, match="key 'form' belongs to schema_version 2, this says 1"):
        parsed(data | {"schema_version": 1})


@pytest.mark.parametrize("version", [0, 3, "2", 2.0, True, None])
def test_other_versions_are_refused(tiny_bundle: Bundle, version: object) -> None:
    with pytest.raises(InvalidInputError, match=r"schema_version is .*, this version reads 1 and 2; take the version"):
        parsed(data_of(tiny_bundle) | {"schema_version": version})


def test_a_mask_first_bundle_says_how_its_masks_are_made(tiny_mask_first_bundle: Bundle) -> None:
    manifest = tiny_mask_first_bundle.manifest
    sampling = SamplingDefaults("ddim", 20, 0.0, 1.0)
    maps = MaskMaps((3, 16, 16, 16), (15.0, 17.0, 18.0), (9.0, 7.0, 5.0))
    made = manifest.mask_first
    assert made is not None
    np.testing.assert_allclose(made.draft_levels[5], (0.5, 0.61, 0.72, 0.83))
    expected = MaskFirst(4, maps, sampling, 1.0, made.draft_levels, anatomies_sha256(), made.grain)
    assert (manifest.form, made) == ("mask-first", expected)
    assert list(manifest.components["denoiser"].inputs[2].shape) == ["batch", 3, 16, 32, 32]
    assert [spec.name for spec in manifest.components["refiner"].inputs] == ["image", "draft"]


def changed(data: Data, *path: str | int, to: object) -> None:
    for key in path[:-1]:
        data = data[key]  # pyright: ignore[reportArgumentType]
    data[path[-1]] = to  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("form",), "slices", "components: missing .*unknown .*mask_denoiser.* in the form slices"),
        (("form",), "masks", "form: is 'masks', must be one of slices, mask-first"),
        (("mask_first",), None, "mask_first: is null"),
        (("mask_first", "source"), 0.5, "mask_first.source 0.5: must be 1"),
        (("mask_first", "anatomies"), "0" * 64, "trained with other brains than this version"),
        (("mask_first", "draft_levels"), [[0.5] * 4] * 5, "needs 6 tissues of 4 modalities each"),
        (("mask_first", "draft_levels"), [[0.5] * 3] * 6, "needs 6 tissues of 4 modalities each"),
        (("mask_first", "draft_levels", 2, 1), 1.5, "must be from 0 to 1"),
        (("mask_first", "grain"), [[0.1, 0.1]] * 3, "needs 4 modalities"),
        (("mask_first", "grain", 3, 0), -0.1, "grain: must be from 0 to 1"),
        (("modalities", 0), "adc", "modalities: t1 missing, which tell the tissues"),
        (("mask_first", "slab_slices"), 3, "the second the slabs of 3 slices"),
        (("mask_first", "mask_sampling", "steps"), 0, "mask_sampling.steps 0: allowed 1..1000"),
        (("mask_first", "mask_sampling", "steps"), 1001, "mask_sampling.steps 1001: allowed 1..1000"),
        (("mask_first", "mask_maps", "std"), [9.0, 0.0, 5.0], "3 deviations above 0"),
        (("mask_first", "mask_maps", "mean"), [9.0, 5.0], "needs 3 means"),
        (("mask_first", "mask_maps", "shape"), [2, 16, 16, 16], "must be 3 maps"),
        (("mask_first", "mask_maps", "shape"), [3, 16, 16, 8], "components.mask_denoiser.inputs"),
        (("grid", "shape"), [32, 32, 15], "must be even"),
        (("labels",), ["background", "ncr", "et", "ed"], "the mask is made of background, ncr, ed, et"),
        (("latent", "shape"), [8, 4, 4], "needs four axes"),
        (("components", "denoiser", "inputs", 2, "name"), "label", "components.denoiser.inputs"),
        (("components", "decoder", "outputs", 1, "shape"), ["batch", 1, 32, 32], "components.decoder.outputs"),
        (("components", "encoder", "inputs", 0, "dtype"), "float16", "components.encoder.inputs"),
        (("components", "decoder", "inputs"), [], "features float32 .*must be"),
        (("components", "refiner", "inputs", 1, "name"), "label", "components.refiner.inputs"),
    ],
)
def test_what_contradicts_the_form_is_refused(
    tiny_mask_first_bundle: Bundle, path: tuple[str | int, ...], to: object, message: str
) -> None:
    data = data_of(tiny_mask_first_bundle)
    changed(data, *path, to=to)
    with pytest.raises(InvalidInputError, match=message):
        parsed(data)


@pytest.mark.parametrize("name", ["mask_denoiser", "denoiser", "aggregator_encode"])
def test_every_component_is_needed(tiny_mask_first_bundle: Bundle, name: str) -> None:
    data = data_of(tiny_mask_first_bundle)
    del data["components"][name]
    with pytest.raises(InvalidInputError, match=rf"components: missing \['{name}'\]"):
        parsed(data)


def test_a_refiner_may_be_missing(tiny_mask_first_bundle: Bundle) -> None:
    data = data_of(tiny_mask_first_bundle)
    del data["components"]["refiner"]
    assert "refiner" not in parsed(data).components


def test_slices_have_no_mask_stage(tiny_bundle: Bundle, tiny_mask_first_bundle: Bundle) -> None:
    data = data_of(tiny_bundle) | {"mask_first": data_of(tiny_mask_first_bundle)["mask_first"]}
    with pytest.raises(InvalidInputError, match="mask_first: must be null in the form slices"):
        parsed(data)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=JSON_VALUES)
def test_strange_values_of_the_form_end_in_a_message(
    tiny_mask_first_bundle: Bundle, data: st.DataObject, value: Any
) -> None:
    manifest = data_of(tiny_mask_first_bundle)
    part: Any = manifest[data.draw(st.sampled_from(["mask_first", "components", "latent", "grid"]))]
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        deeper = part[key]
        if not isinstance(deeper, dict | list) or not deeper or data.draw(st.booleans()):
            break
        part = deeper
    part[key] = value
    with contextlib.suppress(InvalidInputError):
        assert parsed(manifest).mask_first is not None

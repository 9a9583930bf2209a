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
    assert (data["schema_version"], data["form"], data["mask_first"]) == (3, "slices", None)
    second = unfitted(data)
    old = {key: value for key, value in second.items() if key not in ("form", "mask_first")} | {"schema_version": 1}
    assert parsed(old) == tiny_bundle.manifest
    with pytest.raises(InvalidInputError, match="key 'form' belongs to schema_version 2, this says 1"):
        parsed(second | {"schema_version": 1})


def test_a_bundle_of_the_second_version_has_no_fitted_steps(tiny_mask_first_bundle: Bundle) -> None:
    data = data_of(tiny_mask_first_bundle)
    assert parsed(unfitted(data)) == tiny_mask_first_bundle.manifest
    with pytest.raises(InvalidInputError, match=r"'schedule.fitted' belongs to schema_version 3, this says an older"):
        parsed(data | {"schema_version": 2})


def unfitted(data: Data) -> Data:
    """As version 2 wrote it."""
    parts = {name: data[name] for name in ("schedule", "mask_first") if data[name] is not None}
    without = {name: {key: value for key, value in part.items() if key != "fitted"} for name, part in parts.items()}
    return data | {"schema_version": 2} | without


FITTED: Data = {"timesteps": [999, 400], "rows": [[0.9, 0.1, 0.0], [0.1, 1.1, -0.2]]}


@pytest.mark.parametrize("owner", ["schedule", "mask_first"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timesteps": [1000, 400]}, r"timesteps \(1000, 400\) must fall, within 999 and 0"),
        ({"timesteps": [999, 999]}, "must fall, within"),
        ({"timesteps": [999, -1]}, "must fall, within"),
        ({"timesteps": [], "rows": []}, "must fall, within"),
        ({"rows": [[0.9, 0.1, 0.0]]}, "needs a row a timestep"),
        ({"rows": [[0.9, 0.1, 0.5], [0.1, 1.1, -0.2]]}, "the first without an x0 before it"),
    ],
)
def test_fitted_steps_that_are_none_are_refused(
    tiny_mask_first_bundle: Bundle, owner: str, changes: Data, message: str
) -> None:
    data = data_of(tiny_mask_first_bundle)
    changed(data, owner, "fitted", to=[FITTED])
    parsed(data)
    changed(data, owner, "fitted", to=[FITTED | changes])
    with pytest.raises(InvalidInputError, match=rf"{owner}.fitted: .*{message}"):
        parsed(data)


def test_default_steps_must_be_among_the_fitted(tiny_mask_first_bundle: Bundle) -> None:
    for path, owner in ((("defaults",), "schedule"), (("mask_first", "mask_sampling"), "mask_first")):
        data = data_of(tiny_mask_first_bundle)
        changed(data, owner, "fitted", to=[FITTED])
        changed(data, *path, to={"sampler": "fitted", "steps": 2, "eta": 0.0, "guidance": 1.0})
        parsed(data)
        changed(data, *path, "steps", to=3)
        with pytest.raises(InvalidInputError, match=rf"steps 3: {owner}.fitted has none of that number"):
            parsed(data)
        changed(data, owner, "fitted", to=[FITTED, FITTED])
        with pytest.raises(InvalidInputError, match=rf"{owner}.fitted: two have the same number of steps"):
            parsed(data)


@pytest.mark.parametrize("version", [0, 4, "2", 2.0, True, None])
def test_other_versions_are_refused(tiny_bundle: Bundle, version: object) -> None:
    told = r"schema_version is .*, this version reads 1 to 3; take the version"
    with pytest.raises(InvalidInputError, match=told):
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

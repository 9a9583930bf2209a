"""The whole generation as a model of Triton's Python backend; `export --triton` copies this file as it is.

One request makes one sample: `condition`, a JSON object of column to value ({} draws all of it), the run's `seed` and
the number of the `sample`; out come the modalities, the mask and what was measured, as JSON. The same seed and number
give the same volume as `sbldm-engine generate` on that device. A request that is refused is answered by an error in
words; the others of its batch are made.

Triton's Python needs sbldm-engine installed. The bundle lies beside this file.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  # of the server
from sbldm.engine.errors import SbldmError
from sbldm.engine.generator import Generator
from sbldm.engine.sample import Sample

BUNDLE = "bundle"


class TritonPythonModel:
    """One instance: a generator on the device that Triton gives it."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Opens the bundle; what cannot run here is refused in words, and the model is not loaded."""
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        given = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in given.items()}
        bundle = Path(args["model_repository"]) / args["model_version"] / BUNDLE
        try:
            self.generator = Generator.load(
                bundle, device=device, backend=settings["backend"], precision=settings["precision"]
            )
        except SbldmError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request, in their order."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Gives the generator's memory back."""
        self.generator.close()

    def _answer(self, request: Any) -> Any:
        condition, seed, number = (_value(request, name) for name in ("condition", "seed", "sample"))
        try:
            sample = self.generator.sample(int(number), conditions=_rows(condition), seed=int(seed))
        except SbldmError as error:
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, values) for name, values in _outputs(sample).items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _value(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]


def _rows(text: bytes | str) -> list[dict[str, Any]]:
    """The one row of conditions of a request; SbldmError where it is no JSON object."""
    try:
        row = json.loads(text)
    except ValueError as error:
        raise SbldmError(f'condition: no JSON ({error}); give an object such as {{"volume_ml": 20}}') from error
    if not isinstance(row, dict):
        raise SbldmError("condition: must be a JSON object of column to value; {} draws all of it")
    return [row]


def _outputs(sample: Sample) -> dict[str, np.ndarray]:
    """Arrays by output name, as `export.triton` configures them."""
    found = {name: value if math.isfinite(value) else None for name, value in asdict(sample.measured).items()}
    measured = json.dumps({"id": sample.id, **found})
    return {
        **dict(zip(sample.modalities, sample.image, strict=True)),
        "mask": sample.label,
        "measured": np.array([measured.encode()], dtype=object),
    }

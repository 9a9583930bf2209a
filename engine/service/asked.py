"""What a client may ask for: the body of a new job, and whether the model can do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..bundle.load import Bundle
from ..bundle.manifest import SamplerName
from ..errors import InvalidInputError, UsageError
from ..run.arguments import respelled
from ..run.request import GenerateRequest
from ..run.row_ids import row_ids
from ..sampling.given_masks import require_mask_first
from ..scans.options import Cavity, Orientation, read_options
from .job import CONDITIONS_NAME, Kind
from .store import Reserved

MAX_CONDITIONS = 900_000  # characters of a table
_OVERHEAD = 1 << 20  # bytes of a run beside its samples
_RUN_OPTIONS = (
    "seed", "steps", "sampler", "eta", "guidance", "layout", "names", "name_by", "grid", "reject", "attempts", "strict",
)  # fmt: skip
_BRATS_VOXELS = 240 * 240 * 155


class AskedJob(BaseModel):
    """A job as a client asks for it; what is left out is as on the command line."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Kind = Field("generate", description="From conditions, around uploaded masks, or from an uploaded case.")
    model: str | None = Field(None, max_length=100, description="One of /v1/models; default: the first.")
    count: int | None = Field(None, ge=1, le=10**6, description="Samples; default: one a row, or a mask.")
    conditions: str | None = Field(
        None, max_length=MAX_CONDITIONS, description="The text of a condition table (CSV with a header)."
    )
    seed: int = Field(0, ge=0, le=2**64 - 1)
    steps: int | None = Field(None, ge=1, le=10_000)
    sampler: SamplerName | None = None
    eta: float | None = Field(None, ge=0, le=1)
    guidance: float | None = Field(None, ge=0, le=100)
    layout: Literal["brats", "nnunet", "bids"] = "brats"
    names: Literal["2021", "2023"] = "2021"
    name_by: Literal["sample", "id"] = "sample"
    grid: Literal["native", "brats"] = "native"
    reject: float | None = Field(None, gt=0, le=10)
    attempts: int = Field(4, ge=1, le=100)
    strict: bool = False
    strength: float | None = Field(None, ge=0, le=1, description="Of kind augment: 1 keeps nothing of the case.")
    labels: str | None = Field(None, max_length=200, description='As "necrosis=1,oedema=2,enhancing=3".')
    cavity: Cavity = "refuse"
    orientation: Orientation | None = None

    def options(self) -> dict[str, Any]:
        """Options of the run that were given, by the names of `GenerateRequest`."""
        given = {name: getattr(self, name) for name in (*_RUN_OPTIONS, "count")}
        return {name: value for name, value in given.items() if value is not None}

    def reading(self) -> dict[str, Any]:
        """How uploads are read."""
        return {"labels": self.labels, "cavity": self.cavity, "orientation": self.orientation}


def check_asked(asked: AskedJob, bundle: Bundle, most: int, conditions: Path | None) -> Reserved:
    """What a job may come to; `conditions` is the file of its table, `most` the samples that a job may have.

    Raises:
        UsageError, InvalidInputError: what is asked contradicts itself or the model; files are named as a client
            knows them.
    """
    try:
        return _checked(asked, bundle, most, conditions)
    except (UsageError, InvalidInputError) as error:
        told = respelled(str(error)).replace(str(conditions), CONDITIONS_NAME)
        raise type(error)(told) from error


def _checked(asked: AskedJob, bundle: Bundle, most: int, conditions: Path | None) -> Reserved:
    read_options(**asked.reading())
    if asked.kind == "masks":
        require_mask_first(bundle)
        if conditions is not None:
            raise UsageError("conditions: go without masks, whose tumours are measured")
    if asked.strength is not None and asked.kind != "augment":
        raise UsageError("strength: belongs to kind augment")
    options = asked.options()
    uncounted = asked.kind == "masks" and asked.count is None
    if asked.count is None and (asked.kind == "masks" or (asked.kind == "augment" and conditions is None)):
        options["count"] = 1
    request = GenerateRequest(bundle=bundle, conditions=conditions, **options)
    table = request.table()
    run_options = request.options(len(table))
    row_ids(table, run_options)
    count = run_options.count
    if count > most:
        raise UsageError(f"count: {count} samples, this service makes at most {most} a job")
    manifest = bundle.manifest
    voxels = (
        _BRATS_VOXELS
        if asked.grid == "brats"
        else manifest.grid.shape[0] * manifest.grid.shape[1] * (manifest.grid.shape[2])
    )
    each = voxels * (2 * len(manifest.modalities) + 1)
    return Reserved(None if uncounted else count, _OVERHEAD + count * each)

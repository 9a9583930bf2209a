"""What a job is: the content of its `job.json`, and of what a client is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ..decode import decode
from ..errors import InvalidInputError

State = Literal["waiting", "queued", "running", "done", "incomplete", "failed", "cancelled"]
"""waiting: for uploads; incomplete: some samples failed; the last four are ends."""
STATES: tuple[State, ...] = get_args(State)
ENDS: frozenset[State] = frozenset({"done", "incomplete", "failed", "cancelled"})
Kind = Literal["generate", "masks", "augment"]
JOB_NAME = "job.json"
CONDITIONS_NAME = "conditions.csv"
INPUTS_NAME = "inputs"
RUN_NAME = "run"
MAX_JOB_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """A job as its file holds it; replaced, never changed."""

    id: str  # 32 hexadecimal digits
    number: int  # grows from job to job of a service
    client: str
    kind: Kind
    model: str
    options: dict[str, Any]  # of the run, by the names of `GenerateRequest`
    reading: dict[str, Any]  # of uploads: labels, cavity, orientation
    strength: float | None  # of kind augment
    has_conditions: bool
    count: int | None  # samples; None until the masks are counted
    state: State
    created: float  # seconds since the epoch
    changed: float  # of the state
    inputs: dict[str, int]  # bytes of uploads, by name
    result_bytes: int  # of results: at most, until it has ended
    done: int = 0  # samples that are made
    faulty: int = 0  # samples that failed
    starts: int = 0  # of its process, less those that were stopped in good order
    reason: str | None = None  # why it failed, for the client

    @property
    def has_ended(self) -> bool:
        """Whether nothing will be made of it any more."""
        return self.state in ENDS

    def to_bytes(self) -> bytes:
        """The bytes of `job.json`."""
        return (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode()

    def with_(self, **changes: Any) -> Job:
        """The job with other values."""
        return replace(self, **changes)


def read_job(data: bytes, where: str) -> Job:
    """The job of a file; InvalidInputError where it holds none."""
    try:
        return decode(Job, json.loads(data), where)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not valid JSON ({error})") from error

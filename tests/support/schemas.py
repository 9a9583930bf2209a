"""What commands print with `--json`, held to the schemas of docs/schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def held_to(name: str, text: str) -> Any:
    """What is printed, read; AssertionError where it is not as the schema of this name says."""
    data = json.loads(text)
    faults = [f"{fault.json_path}: {fault.message}" for fault in schema(name).iter_errors(data)]
    assert not faults, "\n".join(faults)
    return data


@cache
def schema(name: str) -> Draft202012Validator:
    """A schema of docs/schemas, itself a valid one."""
    content = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)

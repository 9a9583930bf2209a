"""What commands print with `--json`, and write for others, held to the schemas of docs/schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

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
    contents = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in SCHEMAS.glob("*.schema.json")}
    content = contents[f"{name}.schema.json"]
    Draft202012Validator.check_schema(content)
    fellows = [(file, DRAFT202012.create_resource(found)) for file, found in contents.items()]
    return Draft202012Validator(content, registry=Registry().with_resources(fellows))

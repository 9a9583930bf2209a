"""The addresses of a service as one page: written here from its OpenAPI description, without a script or a link out."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def api_page(openapi: dict[str, Any]) -> str:
    """The page of an OpenAPI 3 description."""
    calls = [
        {"method": method.upper(), "path": path, **call}
        for path, methods in openapi["paths"].items()
        for method, call in methods.items()
    ]
    schemas = openapi.get("components", {}).get("schemas", {})
    return _template().render(info=openapi["info"], calls=calls, schemas=schemas, shape=shape)


def shape(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, references by name."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(shape(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {shape(schema.get('items', {}))}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


_BOUNDS = {
    "minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "maxLength": "length <=",
    "pattern": "matches",
}  # fmt: skip


@cache
def _template() -> Template:
    place = PackageLoader("sbldm.engine.service")
    environment = Environment(
        loader=place, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("api.html.j2")

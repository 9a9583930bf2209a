"""Plain JSON data into frozen dataclasses, strictly: every key known, every type as declared."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import InvalidInputError

T = TypeVar("T")

_PLAIN_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
MAX_FAULTS = 20  # told at once


def decode(kind: type[T], value: Any, where: str) -> T:
    """Build `kind` (a dataclass) from JSON data; `where` names the place in messages.

    Raises:
        InvalidInputError: keys are missing or unknown, or values have another type; all are named, a line each.
    """
    faults: list[str] = []
    built = _decode(kind, value, where, faults)
    if faults:
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        raise InvalidInputError("\n".join(faults[:MAX_FAULTS] + more))
    return built


def _decode(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    """The decoded value; what it returns has no meaning where it added to `faults`."""
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where, faults)
    if origin is tuple:
        return _tuple(arguments, value, where, faults)
    if origin is dict:
        if not isinstance(value, dict):
            return faults.append(_wrong(where, "an object", value))
        return {str(k): _decode(arguments[1], v, _below(where, str(k)), faults) for k, v in value.items()}
    if origin is typing.Literal:
        if value not in arguments:
            faults.append(_wrong(where, "one of " + ", ".join(map(str, arguments)), value))
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where, faults)
    return _scalar(kind, value, where, faults)


_hints = functools.cache(typing.get_type_hints)


def _dataclass(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return faults.append(_wrong(where, "an object", value))
    hints = _hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    before = len(faults)
    faults += [f"{where}: key {n!r} is missing" for n in names if n not in value]
    faults += [f"{where}: unknown key {str(k)!r}; allowed: {', '.join(names)}" for k in value if k not in names]
    fields = {n: _decode(hints[n], value[n], f"{where}: {n}", faults) for n in names if n in value}
    return kind(**fields) if len(faults) == before else None


def _tuple(arguments: tuple[Any, ...], value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, list | tuple):
        return faults.append(_wrong(where, "a list", value))
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        return faults.append(_wrong(where, f"a list of {len(arguments)}", value))
    pairs = enumerate(zip(arguments, value, strict=True))
    return tuple(_decode(a, v, f"{where}[{i}]", faults) for i, (a, v) in pairs)


def _union(arguments: tuple[Any, ...], value: Any, where: str, faults: list[str]) -> Any:
    if value is None and type(None) in arguments:
        return None
    kinds = [a for a in arguments if a is not type(None)]
    for kind in kinds:
        found: list[str] = []
        built = _decode(kind, value, where, found)
        if not found:
            return built
        if len(kinds) == 1:
            return faults.extend(found)
    return faults.append(_wrong(where, " or ".join(getattr(a, "__name__", str(a)) for a in arguments), value))


def _scalar(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            faults.append(_wrong(where, "a finite number", value))
        return number
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        faults.append(_wrong(where, names.get(kind, str(kind)), value))
    return value


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{where}[{key!r}]"


def _wrong(where: str, allowed: str, value: Any) -> str:
    text = repr(value)
    return f"{where}: is {text if len(text) <= 80 else text[:77] + '...'}, must be {allowed}"

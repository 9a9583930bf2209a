"""Plain JSON data into frozen dataclasses, strictly: every key known, every type as declared."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import InvalidInputError

T = TypeVar("T")


def decode(kind: type[T], value: Any, where: str) -> T:
    """Build `kind` (a dataclass) from JSON data; `where` names the place in messages.

    Raises:
        InvalidInputError: a key is missing or unknown, or a value has another type.
    """
    return _decode(kind, value, where)


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {str(k): _decode(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is typing.Literal:
        if value not in arguments:
            raise _wrong(where, "one of " + ", ".join(map(str, arguments)), value)
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where)
    return _scalar(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    if missing := [n for n in names if n not in value]:
        raise InvalidInputError(f"{where}: key {missing[0]!r} is missing")
    if unknown := [str(k) for k in value if k not in names]:
        raise InvalidInputError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(names)}")
    return kind(**{n: _decode(hints[n], value[n], f"{where}: {n}") for n in names})


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(arguments) != len(value):
        raise _wrong(where, f"a list of {len(arguments)}", value)
    return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    for argument in arguments:
        if argument is type(None):
            if value is None:
                return None
            continue
        try:
            return _decode(argument, value, where)
        except InvalidInputError:
            continue
    raise _wrong(where, " or ".join(getattr(a, "__name__", str(a)) for a in arguments), value)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise _wrong(where, "a finite number", value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _wrong(
        where,
        {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind)),
        value,
    )


def _wrong(where: str, allowed: str, value: Any) -> InvalidInputError:
    text = repr(value)
    return InvalidInputError(f"{where}: is {text if len(text) <= 80 else text[:77] + '...'}, must be {allowed}")

"""Readers of a request's fields, declared with them as `Annotated[type, reader]`.

A reader returns what is given as the field's own type (NumPy numbers become Python's). It raises TypeError for a value
of another type, ValueError for one out of range; both say what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import numpy as np

from ..conditions.columns import Conditions
from ..conditions.faults import shown

Reader = Callable[[object], Any]
_LONG = 128  # bits of a whole number that messages still print


def whole(least: int | None = None, most: int | None = None, words: str | None = None) -> Reader:
    """A whole number from `least` to `most`; `words` say the range where the numbers are hard to read."""

    def read(value: object) -> int:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise TypeError("must be a whole number")
        number = int(value)
        if (least is not None and number < least) or (most is not None and number > most):
            raise ValueError(f"must be {words or _range(least, most)}")
        return number

    return read


def real(least: float, most: float) -> Reader:
    """A number from `least` to `most`."""

    def read(value: object) -> float:
        number = _number(value)
        if not least <= number <= most:
            raise ValueError(f"must be {_range(least, most)}")
        return float(number)

    return read


def tolerance(most: float) -> Reader:
    """A share above 0, of at most `most`."""

    def read(value: object) -> float:
        number = _number(value)
        if not 0 < number <= most:
            raise ValueError(f"the tolerance must be above 0 and at most {most}")
        return float(number)

    return read


def choice(allowed: Sequence[str]) -> Reader:
    """One of these words."""

    def read(value: object) -> str:
        words = f"allowed: {', '.join(allowed)}"
        if not isinstance(value, str):
            raise TypeError(words)
        if value not in allowed:
            raise ValueError(words)
        return str(value)

    return read


def text() -> Reader:
    """A text; what it may say is known elsewhere."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise TypeError("must be a text")
        return str(value)

    return read


def flag() -> Reader:
    """True or False."""

    def read(value: object) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError("must be True or False")
        return bool(value)

    return read


def path() -> Reader:
    """The path of a file or directory."""

    def read(value: object) -> Path:
        if not isinstance(value, str | os.PathLike):
            raise TypeError("must be a path")
        return Path(value)

    return read


def batch(most: int) -> Reader:
    """A batch size up to `most`, or "auto"."""

    def read(value: object) -> int | str:
        if isinstance(value, str) and value == "auto":
            return value
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"must be auto, or from 1 to {most}")
        return int(value)

    return read


def wanted() -> Reader:
    """A file of wanted tumours, or rows of them; what they say is read elsewhere."""

    def read(value: object) -> object:
        if isinstance(value, str | os.PathLike):
            return Path(value)
        if not isinstance(value, Conditions | Sequence):
            raise TypeError("must be the path of a CSV, a list of rows, or None")
        return value

    return read


def read_fields(owner: type, given: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a data class that have a reader and are given: (values, faults), both by name.

    None stands for itself where it is the default.
    """
    readers, values, faults = _readers(owner), dict[str, Any](), dict[str, str]()
    for declared in fields(owner):
        name = declared.name
        if name not in given or name not in readers:
            continue
        value = given[name]
        try:
            values[name] = None if value is None and declared.default is None else readers[name](value)
        except TypeError as error:
            faults[name] = fault(name, repr(value), str(error))
        except ValueError as error:
            faults[name] = fault(name, value, str(error))
    return values, faults


@cache
def _readers(owner: type) -> dict[str, Reader]:
    hints = get_type_hints(owner, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated}


def fault(name: str, value: object, allowed: str) -> str:
    """What is wrong with the value of a field, in the command line's spelling."""
    if isinstance(value, int) and value.bit_length() > _LONG:
        value = f"of {value.bit_length()} bits"  # Python refuses to print the longest
    return f"--{name.replace('_', '-')} {shown(str(value))}: {allowed}"


def _number(value: object) -> Any:
    """A number as it was given; TypeError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError("must be a number")
    return value


def _range(least: float | None, most: float | None) -> str:
    return f"{least} or more" if most is None else f"from {least} to {most}"

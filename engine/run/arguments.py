"""The Python interface's keyword arguments: named once, and refused by name where they do not exist.

They are fields of `GenerateRequest`, which says their units and ranges.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from itertools import chain
from typing import ParamSpec, TypedDict, TypeVar

from ..bundle.manifest import SamplerName
from ..errors import UsageError
from .request import GenerateRequest

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class MachineArguments(TypedDict, total=False):
    """What a model is run on."""

    backend: str
    device: str
    precision: str
    threads: int | None


class SamplingArguments(TypedDict, total=False):
    """How samples are made."""

    seed: int
    steps: int | None
    sampler: SamplerName | None
    eta: float | None
    guidance: float | None
    reject: float | None
    attempts: int


class DatasetArguments(MachineArguments, SamplingArguments, total=False):
    """Both."""


def python_call(*groups: type) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a call whose `**` arguments are those of `groups` (typed dictionaries).

    An argument that it does not have raises UsageError, with those that it has, instead of TypeError; messages of a
    UsageError from within name `batch_size` where the command line has `--batch-size`.
    """

    def decorate(call: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(call)
        own = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        valid = [*own[1:], *chain.from_iterable(group.__annotations__ for group in groups)]
        name = call.__qualname__.removesuffix(".__init__")

        @wraps(call)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            if unknown := [_unknown(argument, valid) for argument in kwargs if argument not in valid]:
                raise UsageError(f"{name}: {'; '.join(unknown)}; its arguments are {', '.join(valid)}")
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise UsageError(f"{name}: {error}; its arguments are {', '.join(valid)}") from None
            try:
                return call(*args, **kwargs)
            except UsageError as error:
                raise UsageError(respelled(str(error))) from error

        return checked

    return decorate


def _unknown(argument: str, valid: list[str]) -> str:
    if argument in {f.name for f in fields(GenerateRequest)}:
        return f"{argument} is no argument here, it belongs to runs in a directory or to the generator's making"
    near = get_close_matches(argument, valid, 1)
    return f"no argument {argument}" + (f", perhaps {near[0]}" if near else "")


def respelled(message: str) -> str:
    """A message that spells options as the command line does, with the names of arguments."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), message)

"""Write docs/api.md from the docstrings of the Python interface: `python docs/make_api.py`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

from sbldm.engine import adapters, errors, sample
from sbldm.engine.changed_scan import ChangedScan
from sbldm.engine.generator import Cancelled, Generator
from sbldm.engine.output.measure import TumourMeasurement
from sbldm.engine.run import arguments
from sbldm.engine.run.nnunet_split import Addition, add_to_dataset
from sbldm.engine.scans.scan import Scan

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Python interface

Written from the docstrings by `python docs/make_api.py`. `sbldm.load` is `Generator.load`; `sbldm.Generator`,
`sbldm.Sample`, `sbldm.Scan` and `sbldm.ChangedScan` are the classes below. Every argument that does not exist is
refused with those that do (`UsageError`).
"""


def page() -> str:
    """The page's text."""
    exceptions = (errors.SbldmError, *_subclasses(errors.SbldmError))
    parts = [
        HEAD,
        *_class(Generator, "sbldm.Generator"),
        *_typed("Arguments of sampling", arguments.SamplingArguments),
        *_typed("Arguments of a machine", arguments.MachineArguments),
        *_class(sample.Sample, "sbldm.Sample"),
        *_class(TumourMeasurement, "TumourMeasurement"),
        *_class(Scan, "sbldm.Scan"),
        *_class(ChangedScan, "sbldm.ChangedScan"),
        *_class(adapters.SyntheticDataset, "sbldm.engine.adapters.SyntheticDataset"),
        "## sbldm.engine.adapters.StreamDataset\n",
        '`StreamDataset(data: SyntheticDataset, faulty="raise")`: a `SyntheticDataset` as PyTorch\'s IterableDataset. '
        "Of n DataLoader workers, worker w makes the samples w, w + n, ... A sample with a fault ends the stream by "
        "FaultySampleError (`raise`), or is left out (`skip`).\n",
        *_function(add_to_dataset, "sbldm.engine.run.nnunet_split.add_to_dataset", "##"),
        *_class(Addition, "Addition"),
        "## Errors\n",
        "| error | exit code of the command line | when |\n| --- | --- | --- |",
        *(f"| `{e.__name__}` | {e.exit_code} | {_first_line(e)} |" for e in exceptions),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _subclasses(kind: type[errors.SbldmError]) -> list[type[errors.SbldmError]]:
    public = [
        e for e in kind.__subclasses__() if e in (Cancelled, sample.FaultySampleError) or hasattr(errors, e.__name__)
    ]
    return sorted(public, key=lambda e: (e.exit_code, e.__name__))


def _first_line(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _typed(title: str, group: type) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{_first_line(group)} Units and ranges are those of the command line's options of the same names.\n"
    for name, hint in typing.get_type_hints(group).items():
        yield f"- `{name}`: `{_plain(str(hint) if not isinstance(hint, type) else hint.__name__)}`"
    yield ""


def _class(kind: type, title: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield _text(inspect.getdoc(kind) or "")
    if dataclasses.is_dataclass(kind):
        yield "| field | type |\n| --- | --- |"
        yield from (f"| `{f.name}` | `{_plain(str(f.type))}` |" for f in dataclasses.fields(kind))
        yield ""
    for name, member in vars(kind).items():
        inner = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") and name != "_repr_png_":
            continue
        if isinstance(inner, property | functools.cached_property):
            yield f"### {name}\n\n{_text(inspect.getdoc(inner) or '')}"
        elif inspect.isfunction(inner):
            yield from _function(inner, name, "###")


def _function(call: typing.Any, title: str, level: str) -> Iterator[str]:
    parameters = [p for p in inspect.signature(call).parameters.values() if p.name not in ("self", "cls")]
    shown = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    yield f"{level} {title}\n\n`{title.rpartition('.')[2]}{shown}`\n"
    yield _text(inspect.getdoc(call) or "")


def _text(docstring: str) -> str:
    """A docstring as Markdown: sections in bold, their entries as a list."""
    lines: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if line in ("Args:", "Raises:"):
            lines.append(f"**{'Arguments' if line == 'Args:' else 'Raises'}**\n")
            inside = True
        elif inside and re.match(r" {4}\S", line):
            name, _, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}")
        elif inside and line.startswith("        "):
            lines[-1] += " " + line.strip()
        else:
            inside = inside and not line
            lines.append(line)
    return "\n".join(lines) + "\n"


def _plain(annotation: str) -> str:
    return re.sub(r"(?:typing|numpy|collections\.abc|pathlib|sbldm[\w.]*)\.", "", annotation).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

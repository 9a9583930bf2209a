"""The command line: which commands there are, and how errors become exit codes."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer
from typer.core import CompletionItem  # pyright: ignore[reportPrivateImportUsage] - it has no other name
from typer.exceptions import TyperException

from ._allocator import settle_allocator
from ._codes import code_of
from ._commands import HELP, Command, Group
from ._faults import explained
from ._plots import settle_matplotlib
from ._streams import settle_streams

if TYPE_CHECKING:
    from ..engine.telemetry import EventLog

# command -> (module below sbldm.cli, help of the list); modules load when their command runs
COMMANDS = {
    "generate": ("generate", "Make synthetic volumes and masks from conditions."),
    "conditions": ("conditions", "Check, measure or draw tumour characteristics."),
    "data": ("data", "Look at a data set before it is used."),
    "augment": ("augment", "Bring a real case under new conditions."),
    "masks": ("masks", "Make masks out of masks."),
    "merge": ("merge", "Put the shards of a run together."),
    "verify": ("verify", "Hash every file of a run again."),
    "purge": ("purge", "Remove a run; its audit trail stays."),
    "report": ("report", "Show a run in one HTML file: 3D, plots, faults."),
    "bundle": ("bundle", "Sign a bundle, or verify its signature."),
    "inspect": ("inspect", "Show what a bundle holds."),
    "doctor": ("doctor", "Say what this machine can run, and why."),
    "bench": ("bench", "Measure throughput and quality on this machine."),
    "models": ("models", "List, pull and push models."),
    "phantom": ("phantom", "Write a procedural cohort in BraTS layout."),
    "train": ("train", "Train a system on a cohort."),
    "evaluate": ("evaluate", "Measure fidelity, adherence and memorisation."),
    "downstream": ("downstream", "Tell whether synthetic cases help a segmenter."),
    "export": ("export", "Turn checkpoints into a bundle, held to PyTorch."),
    "serve": ("serve", "Take jobs over HTTP, on this machine or behind a gateway."),
    "explain": ("explain", "Say what is behind the code of an error."),
    "studio": ("studio", "Open a page on this machine: volumes while conditions change."),
    "build": ("build", "Build TensorRT engines ahead of time."),
}

_NAME, _COMPLETION = "sbldm-engine", "_SBLDM_ENGINE_COMPLETE"
PRIVATE = ("augment", "conditions measure", "data", "train", "evaluate", "downstream", "masks", "serve", "studio")
"""Commands that write what is derived from patients: for the user alone (umask 077)."""
PLOTTING = (
    "bench",
    "train",
    "evaluate",
    "downstream",
)  # commands that load Matplotlib, themselves or by what they load

LEAST_SPACE = 600 * 10**6  # bytes; with less, libraries end the process themselves or spin while they are loaded


class LazyGroup(Group):
    """Lists every command by name and help, and imports a command's module only when it runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in PLOTTING and not ctx.resilient_parsing:
            settle_matplotlib()
        module_name, help_text = COMMANDS[cmd_name]
        module = importlib.import_module(f".{module_name}", __package__)
        sub_app = getattr(module, "app", None)
        if sub_app is None:
            sub_app = typer.Typer(add_completion=False)
            sub_app.command(name=cmd_name, help=help_text, cls=Command)(getattr(module, cmd_name))
            command = typer.main.get_command(sub_app)
        else:
            command = typer.main.get_group(sub_app)
        command.name = cmd_name
        command.short_help = help_text
        return command

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands, and options of the group where a dash was typed; no command's module is imported."""
        if incomplete.startswith("-"):
            return [item for item in super().shell_complete(ctx, incomplete) if item.value.startswith("-")]
        words = ((name, text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete))
        return [CompletionItem(name, help=text) for name, text in words]


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings=HELP,
    help="Synthetic 3D brain MRI with tumour masks, from tumour characteristics.",
)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks of errors (anywhere on the line)."),
) -> None:
    """Synthetic 3D brain MRI with tumour masks, from tumour characteristics."""
    if version:
        from ..engine.versions import installed

        typer.echo(f"sbldm-engine {installed('sbldm-engine') or 'of a source tree without metadata'}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; no traceback leaves it unless `--debug` is given."""
    from ..engine.errors import SbldmError
    from ..engine.run.audit import acting
    from ..engine.telemetry import EventLog

    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = completed([a for a in given if a != "--debug"])
    log = EventLog("json" if _asks_for_json_lines(given) else "text")
    try:
        with log.of_libraries(quiet="--quiet" in given), acting((_NAME, *given)), _umask_of(given):
            result = typer.main.get_command(app).main(given, prog_name=_NAME, standalone_mode=False)
    except SbldmError as error:
        if debug:
            raise
        return _fail(log, str(error), error.exit_code, code_of(error))
    except TyperException as error:
        return _misused(log, error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(log, "interrupted; a run can be gone on with by --resume", 130, "interrupted")
    except Exception as error:
        if debug:
            raise
        if (known := explained(error)) is not None:
            return _fail(log, *known, "system")
        message = f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
        return _fail(log, message, 1, "unexpected")
    return result if isinstance(result, int) else 0


def run() -> None:
    """Entry point of the installed command."""
    if getattr(sys, "frozen", False):  # a worker process is this program again
        multiprocessing.freeze_support()
    if _COMPLETION in os.environ:  # a shell asks, at every press of a key: nothing is imported that it does not need
        typer.main.get_command(app).main(prog_name=_NAME)
    from ..engine.portable import process_limits
    from ..engine.stopping import stopped_by_signals
    from ..engine.telemetry import EventLog

    settle_allocator(sys.argv[1:])
    settle_streams()
    space = process_limits().get("address_space_bytes")
    if space is not None and space < LEAST_SPACE:
        told = f"this process may use {space / 1e6:.0f} MB of memory (ulimit -v), libraries alone need"
        sys.exit(_fail(EventLog("text"), f"{told} {LEAST_SPACE / 1e6:.0f} MB; allow more", 5, "system"))
    with stopped_by_signals():
        code = main()
    try:
        sys.stdout.flush()
    except OSError as error:
        print(f"error: results cannot be written to stdout: {error.strerror}", file=sys.stderr)
        os._exit(5)  # at a usual end the interpreter would try to write them again
    sys.exit(code)


@contextmanager
def _umask_of(given: list[str]) -> Iterator[None]:
    """Files are for the user alone while a command of `PRIVATE` runs."""
    if {" ".join(given[:1]), " ".join(given[:2])} & {*PRIVATE}:
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)
    else:
        yield


def _asks_for_json_lines(given: list[str]) -> bool:
    """Whether stderr is to be JSON, known before the options are read: what is wrong with them is told so too."""
    return "--log-format=json" in given or ("--log-format", "json") in pairwise(given)


def _misused(log: EventLog, error: TyperException) -> int:
    show = getattr(error, "show", None)
    if log.as_json or show is None:
        return _fail(log, error.format_message() if show is not None else str(error), 2, "options")
    show()
    return 2


def completed(given: list[str]) -> list[str]:
    """The arguments as the option parser takes them: options whose value may be left out get it."""
    return _with_preview_file(_with_ray_address(given))


def _with_ray_address(given: list[str]) -> list[str]:
    """`--ray` may stand alone, which the option parser does not know: the cluster that runs here is meant."""
    if "--ray" not in given:
        return given
    after = given.index("--ray") + 1
    alone = after == len(given) or given[after].startswith("-")
    return [*given[:after], "auto", *given[after:]] if alone else given


def _with_preview_file(given: list[str]) -> list[str]:
    """`data check --preview` may stand alone; what follows is its file only where it ends in .png."""
    if given[:2] != ["data", "check"] or "--preview" not in given:
        return given
    after = given.index("--preview") + 1
    named = after < len(given) and given[after].lower().endswith(".png")
    return given if named else [*given[:after], "data-check.png", *given[after:]]


def _fail(log: EventLog, message: str, exit_code: int, code: str) -> int:
    """Say what went wrong and where it is explained; the exit code."""
    if log.as_json:
        log.event(message, "error", exit_code=exit_code, explain=code)
    else:
        log.event(f"{message}\nmore: {_NAME} explain {code}", "error")
    return exit_code


if __name__ == "__main__":
    run()

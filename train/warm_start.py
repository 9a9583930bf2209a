"""Stages that begin with the weights of another training directory instead of random ones."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..engine.errors import InvalidInputError, UsageError
from ..engine.files import sha256_file
from .checkpoint import load_system, read_tensors, weights_path
from .config import AnySystem
from .guards import require_same_networks
from .lineage import Start, read_record

OPTION = "--start-from"


def check_start(start: Path, out: Path, config: AnySystem) -> None:
    """Check that the stages of `start` can be those of `config`, trained on into `out`.

    Raises:
        UsageError: both are one directory.
        InvalidInputError: not a training directory, without any trained stage, or of other networks.
    """
    if start.resolve() == out.resolve():
        raise UsageError(f"{OPTION} {start}: is --out itself, which is gone on with anyhow; leave the option away")
    require_same_networks(start, load_system(start), config, f"{OPTION} needs equal networks: give that preset")
    if not any(weights_path(start, stage).is_file() for stage in config.stages):
        raise InvalidInputError(f"{OPTION} {start}: has no trained stage of {', '.join(config.stages)}")


def begin_with(module: nn.Module, start: Path, stage: str) -> Start | None:
    """Give `module` the parameters that `stage` has in `start`; None where it has none there.

    Buffers, which hold what was measured on a cohort, stay those of the module.

    Raises:
        InvalidInputError: they do not fit.
    """
    path = weights_path(start, stage)
    if not path.is_file():
        return None
    found, state = read_tensors(path), module.state_dict()
    for name, parameter in module.named_parameters():
        if name not in found or found[name].shape != parameter.shape:
            there = f"of shape {tuple(found[name].shape)}" if name in found else "missing"
            raise InvalidInputError(
                f"{OPTION}: {path}: {name} is {there}, must be of shape {tuple(parameter.shape)}; "
                "give a training directory of the same networks"
            )
        state[name] = found[name]
    module.load_state_dict(state)
    record = read_record(start, stage)
    return Start(sha256_file(path), None if record is None else record.cohort)

"""`sbldm-engine augment`: a real case under new conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._options import MODEL, RunFlags, with_run_flags

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..engine.sampling.sdedit import SourceCase


@with_run_flags
def augment(
    flags: RunFlags,
    case: Annotated[Path, typer.Argument(help="Folder of one case: its modalities and segmentation, BraTS names.")],
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            help="0 returns the reconstruction, 1 keeps nothing of the case; its share of --steps is taken.",
            rich_help_panel=MODEL,
        ),
    ] = 0.5,
) -> int:
    """Encode a real case, noise it up to --strength, sample back. Derived from a patient: protect it as such."""
    from ..engine.bundle.load import load_bundle
    from ._job import run_job

    log = flags.event_log()
    bundle = load_bundle(flags.bundle)
    return run_job(flags.request(bundle, read_case(case, bundle, strength)), flags, log)


def read_case(folder: Path, bundle: Bundle, strength: float) -> SourceCase:
    """The one case of a folder, brought to the bundle's grid.

    Raises:
        InvalidInputError: the folder holds no case, several, or a broken one.
    """
    import numpy as np

    from ..engine.bundle.manifest import INT16_SCALE
    from ..engine.errors import InvalidInputError
    from ..engine.sampling.sdedit import SourceCase
    from ..train.data.discover import discover_cases
    from ..train.data.prepare import LEVELS, prepare_case
    from ..train.data.read import CaseError, decode_case, read_bytes

    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such directory; give the folder of one case")
    modalities = bundle.manifest.modalities
    found = discover_cases(folder, modalities)
    if found.faults:
        raise InvalidInputError(
            "\n".join(f"{folder}: {name}: {text}" for name, faults in found.faults.items() for text in faults)
        )
    if len(found.cases) != 1:
        raise InvalidInputError(f"{folder}: holds {len(found.cases)} cases; give the folder of one")
    try:
        contents, _ = read_bytes(found.cases[0], modalities)
        prepared = prepare_case(decode_case(found.cases[0], modalities, contents), bundle.manifest.grid)
    except CaseError as error:
        raise InvalidInputError("\n".join(f"{folder}: {text}" for text in error.faults)) from error
    image = np.rint(prepared.image.astype(np.float32) * (INT16_SCALE / LEVELS)).astype(np.int16)
    label = prepared.label if len(bundle.manifest.labels) > 2 else (prepared.label > 0).astype(np.uint8)
    return SourceCase(image, label, strength)

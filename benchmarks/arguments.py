"""The command line that programs of this folder share which look into the mask-first form."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..engine.bundle.load import Bundle, load_bundle
from ..engine.bundle.manifest import MaskFirst


def mask_first_arguments(
    description: str | None, count: int, arguments: Sequence[str] | None
) -> tuple[Bundle, MaskFirst, int]:
    """The bundle of `--bundle`, its form, and `--count`; ends the program where the bundle has another form."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="glioma")
    parser.add_argument("--count", type=int, default=count)
    given = parser.parse_args(arguments)
    bundle = load_bundle(given.bundle)
    if bundle.manifest.mask_first is None:
        parser.error(f"--bundle {given.bundle}: is of the form slices; give one of the form mask-first")
    return bundle, bundle.manifest.mask_first, given.count

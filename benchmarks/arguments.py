"""The command line that programs of this folder share which look into the mask-first form."""

from __future__ import annotations

import argparse

from ..engine.bundle.load import Bundle, load_bundle
from ..engine.bundle.manifest import MaskFirst


def mask_first_parser(description: str | None, count: int) -> argparse.ArgumentParser:
    """A parser with `--bundle`, and `--count` volumes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="glioma")
    parser.add_argument("--count", type=int, default=count)
    return parser


def mask_first_bundle(parser: argparse.ArgumentParser, name: str) -> tuple[Bundle, MaskFirst]:
    """The bundle of a `--bundle`, and its form; ends the program where it has another form."""
    bundle = load_bundle(name)
    if bundle.manifest.mask_first is None:
        parser.error(f"--bundle {name}: is of the form slices; give one of the form mask-first")
    return bundle, bundle.manifest.mask_first

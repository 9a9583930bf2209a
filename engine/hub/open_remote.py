"""Where models come from and go to: a directory, an HTTP index, a Hugging Face repository."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from .directory import DirectoryRemote
from .http import HttpRemote
from .hugging_face import HuggingFaceRemote
from .remote import HUGGING_FACE, Remote


def open_remote(text: str) -> Remote:
    """The remote of `hf://OWNER/REPOSITORY[@REVISION]`, `https://HOST/PATH` or a directory.

    Raises:
        UsageError: an address of another kind, or one that must not be used.
    """
    if not text:
        raise UsageError("--from, --to: is empty; give a directory, https://HOST/PATH or hf://OWNER/REPOSITORY")
    if text.startswith(HUGGING_FACE):
        return HuggingFaceRemote.of(text)
    if "://" in text:
        return HttpRemote(text)
    return DirectoryRemote(Path(text))

"""A place where models come from and go to, whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ..bundle.load import Bundle
from ..errors import InvalidInputError
from .index import Offer

HUGGING_FACE = "hf://"


@dataclass(frozen=True)
class Stream:
    """Bytes of a file from `start` on, in pieces; `where` names it in messages."""

    where: str
    start: int
    pieces: Iterator[bytes]


class Remote(Protocol):
    """A place that holds models under the layout of an index: `NAME/bundle.json` and the files that it lists.

    What cannot be reached raises IncompleteRunError, what is not what it must be InvalidInputError.
    """

    def offer(self) -> Offer:
        """What it has; what lies there and is no model of ours is left out."""
        ...

    def opened(self, path: str, start: int = 0) -> AbstractContextManager[Stream]:
        """A file, from byte `start` on where the remote can, else from its beginning."""
        ...

    def push(self, name: str, bundle: Bundle) -> bool:
        """Add a verified bundle, whole or not at all; False where it is there already.

        Raises:
            UsageError: the remote takes none, or has another model of that name.
        """
        ...


def read_whole(remote: Remote, path: str, most: int) -> bytes:
    """The bytes of a file of a remote, InvalidInputError where they are more than `most`."""
    data = b""
    with remote.opened(path) as stream:
        for piece in stream.pieces:
            data += piece
            if len(data) > most:
                raise InvalidInputError(f"{stream.where}: larger than {most} bytes; this is not what is expected here")
    return data

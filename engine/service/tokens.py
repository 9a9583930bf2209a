"""Who may ask: clients and their tokens, of which the service keeps the hashes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInputError
from ..files import open_regular, read_bounded
from ..folder import Folder

TOKEN_NAME = "token"
LOCAL = "local"  # the client of a service without a file of tokens
CLIENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES = 1 << 20
_MAX_HEADER = 1000
_ALLOWED = "a client's name (a-z 0-9 _ -, at most 32) and the sha256 of its token in hexadecimal"


@dataclass(frozen=True)
class Tokens:
    """Hash of the token by client."""

    hashes: dict[str, str]

    def client(self, token: str) -> str | None:
        """The client that has a token, found in the same time whoever it is; None for nobody's."""
        own = _hashed(token)
        found = [client for client, known in self.hashes.items() if hmac.compare_digest(own, known)]
        return found[0] if found else None

    def of_header(self, value: bytes, *, reads: bool) -> str | None:
        """The client of an Authorization header: `Bearer TOKEN`, or for what `reads` alone Basic CLIENT:TOKEN.

        Basic is what a browser can send; it is not taken for changes, which another site's page could ask it for.
        """
        if len(value) > _MAX_HEADER:
            return None
        kind, _, rest = value.decode("latin-1").partition(" ")
        if kind.lower() == "bearer":
            return self.client(rest.strip())
        if kind.lower() != "basic" or not reads:
            return None
        try:
            name, _, token = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        client = self.client(token)
        return client if client == name else None


def read_tokens(path: Path) -> Tokens:
    """The clients of a file: a line each with name and hash, `#` begins a comment.

    Raises:
        InvalidInputError: it cannot be read, others than its owner may write it, or a line is wrong; all are named.
    """
    try:
        with open_regular(path) as handle:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = handle.read(_MAX_FILE_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"--tokens {path}: cannot be read ({error})") from error
    if mode & 0o022:
        raise InvalidInputError(f"--tokens {path}: others may write it (mode {mode:o}); chmod go-w it")
    hashes, faults = dict[str, str](), list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not CLIENT.fullmatch(words[0]) or not _HASH.fullmatch(words[1]):
            faults.append(f"{path}:{number}: must be {_ALLOWED}")
        elif words[0] in hashes or words[1] in hashes.values():
            faults.append(f"{path}:{number}: client or token is there twice")
        else:
            hashes[words[0]] = words[1]
    if not hashes and not faults:
        faults.append(f"{path}: holds no client; a line must be {_ALLOWED}")
    if faults:
        raise InvalidInputError("\n".join(faults[:20]))
    return Tokens(hashes)


def local_token(folder: Folder) -> Tokens:
    """The one client of a service for this machine; its token is made once and kept in the service's directory.

    Raises:
        InvalidInputError: the token that is there is no token.
        OSError: it cannot be read or written.
    """
    folder.create(TOKEN_NAME, f"{secrets.token_urlsafe(32)}\n".encode())
    token = read_bounded(folder.root / TOKEN_NAME, _MAX_HEADER).decode("latin-1").strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,}", token):
        raise InvalidInputError(f"{folder.root / TOKEN_NAME}: holds no token; remove it, a new one is made")
    return Tokens({LOCAL: _hashed(token)})


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

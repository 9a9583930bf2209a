"""What a service is started with, and its bounds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

MEGABYTE = 10**6
GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where requests are taken, and what bounds each of them.

    Raises:
        UsageError: a host that is no address, a port out of range.
    """

    host: str = "127.0.0.1"  # an IP address; names are not looked up
    port: int = 8765  # 0: one that is free
    upload_bytes: int = 128 * MEGABYTE  # of a file
    request_bytes: int = MEGABYTE  # of a request that is no upload
    rate: float = 50.0  # requests a second of one client
    burst: int = 200  # requests at once of one client
    connections: int = 512
    header_s: float = 10.0  # seconds that a connection may be without a whole request
    chunk_s: float = 20.0  # seconds that may pass between two parts of a request, or of a response

    def __post_init__(self) -> None:
        if self.host != "localhost":
            try:
                ipaddress.ip_address(self.host)
            except ValueError as error:
                raise UsageError(
                    f"--host {self.host}: must be an IP address, or localhost; names are not looked up"
                ) from error
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: must be from 0 to 65535")

    @property
    def address(self) -> str:
        """The IP address that is listened at."""
        return "127.0.0.1" if self.host == "localhost" else self.host

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can reach the address."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True, kw_only=True)
class Settings(Listening):
    """A service's place, address and bounds.

    Raises:
        UsageError: a value out of range, a host that is no address, one beyond this machine without `tokens`.
    """

    jobs: Path  # its directory: new, empty, or that of a service
    tokens: Path | None = None  # file of clients and the hashes of their tokens; None: one client, its token in `jobs`
    bundles: tuple[str, ...] = ("phantom",)  # names or paths; the first is the default
    require_signature: Path | None = None  # PEM file of the key, or issuer's certificate, that signed every bundle
    at_once: int = 1  # jobs that run
    threads: int | None = None  # CPU threads a job; None: all
    queue: int = 100  # jobs that wait, of all clients
    client_queue: int = 20  # jobs that wait, of one client
    client_jobs: int = 10_000  # jobs of one client that are kept
    samples: int = 1000  # of a job
    uploads: int = 64  # files of a job
    client_bytes: int = 50 * GIGABYTE  # inputs and results of one client
    keep_s: float = 30 * 86400.0  # seconds that a job is kept after its end
    upload_s: float = 3600.0  # seconds that a job may wait for its uploads
    starts: int = 5  # of a job whose process, or whose service, dies

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.is_local and self.tokens is None:
            raise UsageError(
                f"--host {self.host}: listens beyond this machine; give --tokens FILE with a token a client"
            )
        if not self.bundles:
            raise UsageError("--bundle: give at least one")
        for name, option in _OPTIONS.items():
            if not getattr(self, name) > 0:
                raise UsageError(f"{option}: must be more than 0")


_OPTIONS = {
    "at_once": "--at-once", "queue": "--queue", "samples": "--max-samples", "upload_bytes": "--max-upload",
    "client_bytes": "--quota", "keep_s": "--keep",
}  # fmt: skip

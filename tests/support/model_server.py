"""Local servers of models: a directory over HTTP that can misbehave, and what huggingface_hub asks a hub for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = Callable[["Handler"], bool]
"""Answers a request in its own way, or returns False."""


class Handler(BaseHTTPRequestHandler):
    """GET of files below `root`, in parts where asked; `answers` maps a path to what is done instead."""

    protocol_version = "HTTP/1.1"
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.asked.append((path, self.headers.get("Range")))
        self.server.tokens.append(self.headers.get("Authorization"))
        answer = self.server.answers.get(path)
        if answer is None or not answer(self):
            self.send_file(path)

    def send_file(self, path: str) -> None:
        file = self.server.root / path
        if not file.is_file():
            self.send_error(404)
            return
        data, asked = file.read_bytes(), re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def send_bytes(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, data: Any, status: int = 200) -> None:
        self.send_bytes(json.dumps(data).encode(), status, Content_Type="application/json")

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


class Server(ThreadingHTTPServer):
    """See `serving`."""

    daemon_threads = True

    def __init__(self, root: Path, handler: type[Handler] = Handler) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.root = root
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.tokens: list[str | None] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(root: Path, handler: type[Handler] = Handler) -> Iterator[Server]:
    """A server of a directory on this machine, for the time of the block."""
    with Server(root, handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def cut_after(count: int) -> Answer:
    """The first time, the connection ends `count` bytes into the file; later it is sent as it should be."""
    cut = threading.Event()

    def answer(handler: Handler) -> bool:
        if cut.is_set():
            return False
        cut.set()
        data = (handler.server.root / unquote(handler.path).lstrip("/")).read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:count])
        handler.close_connection = True
        return True

    return answer


def redirect(url: str) -> Answer:
    """Leads to another address."""

    def answer(handler: Handler) -> bool:
        handler.send_bytes(b"", 302, Location=url)
        return True

    return answer


def plain(data: bytes, status: int = 200, **headers: str) -> Answer:
    """These bytes."""

    def answer(handler: Handler) -> bool:
        handler.send_bytes(data, status, **headers)
        return True

    return answer


class HubHandler(Handler):
    """One repository `me/models` with one branch, as huggingface_hub speaks to it: information, LFS uploads, commits.

    Files lie in `root`; large ones come by LFS to another host name, as the real hub sends them.
    """

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/me/models"):
            names = sorted(
                p.relative_to(self.server.root).as_posix() for p in self.server.root.rglob("*") if p.is_file()
            )
            self.send_json({"id": "me/models", "sha": self._commit(), "siblings": [{"rfilename": n} for n in names]})
        elif found := re.fullmatch(r"/me/models/resolve/([0-9a-f]{40})/(.+)", path):
            self.server.tokens.append(self.headers.get("Authorization"))
            if found[2].endswith(".onnx"):  # from the storage, another origin
                port = self.server.server_address[1]
                self.send_bytes(b"", 302, Location=f"http://localhost:{port}/storage/{found[2]}")
            else:
                self.send_file(found[2])
        elif path.startswith("/storage/"):
            self.server.tokens.append(f"storage: {self.headers.get('Authorization')}")
            self.send_file(path.removeprefix("/storage/"))
        else:
            self.send_bytes(b"{}", 404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        if path == "/api/models/me/models/preupload/main":
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".onnx") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            self.send_json({"files": modes})
        elif path == "/me/models.git/info/lfs/objects/batch":
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.server.address}/upload/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.send_json({"transfer": "basic", "objects": objects})
        elif path == "/api/models/me/models/commit/main":
            self._take([json.loads(line) for line in body.splitlines()])
        else:
            self.send_json({"error": "no such repository"}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((hashlib.sha256(data).hexdigest(), None))
        _uploads(self.server)[hashlib.sha256(data).hexdigest()] = data
        self.send_bytes(b"")

    def _take(self, lines: list[dict[str, Any]]) -> None:
        head = lines[0]["value"]
        if head.get("parentCommit") != self._commit():
            self.send_json({"error": "the branch has moved"}, 412)
            return
        for line in lines[1:]:
            value = line["value"]
            file = self.server.root / value["path"]
            file.parent.mkdir(exist_ok=True)
            is_large = line["key"] == "lfsFile"
            file.write_bytes(_uploads(self.server)[value["oid"]] if is_large else base64.b64decode(value["content"]))
        self.server.asked.append((head["summary"], None))
        self.send_json(
            {"commitUrl": f"{self.server.address}/me/models/commit/{self._commit()}", "commitOid": self._commit()}
        )

    def _commit(self) -> str:
        names = sorted(str(p) for p in self.server.root.rglob("*"))
        return hashlib.sha1("\n".join(names).encode()).hexdigest()


def _uploads(server: Server) -> dict[str, bytes]:
    return server.__dict__.setdefault("uploads", {})

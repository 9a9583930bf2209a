"""A real headless Chromium, driven over its debugging pipe (Chrome DevTools Protocol); no package is needed for it."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-pipe",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
PATIENCE_S = 240.0
"""How long a picture may take: software draws it, on a machine that may have much else to do."""
_HIGH = 20  # descriptors below are left to the child's 3 and 4


def find_chromium() -> str | None:
    """Path of a Chromium on this machine; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class PageError(AssertionError):
    """A script of the test failed in the page."""


class Chromium:
    """One browser with one page. Use as a context manager."""

    def __init__(self, profile: Path, *flags: str, size: tuple[int, int] = (1320, 1000)) -> None:
        program = find_chromium()
        assert program is not None
        to_child, self._out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in os.pipe())
        self._in, from_child = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in os.pipe())

        def connect() -> None:
            os.dup2(to_child, 3)
            os.dup2(from_child, 4)

        command = [program, *FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen(
            command, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_child)
        os.close(from_child)
        self._rest, self._number, self._session = b"", 0, ""
        self.console: list[str] = []  # errors and warnings of the page
        self.requests: list[str] = []  # URLs that the page asked for
        self.chooser: int | None = None  # the file input whose dialogue was opened last
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setInterceptFileChooserDialog", enabled=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)

    def open(self, path: Path) -> None:
        """Begin to load a page from disk."""
        self.visit(path.as_uri())

    def visit(self, address: str) -> None:
        """Begin to load the page of an address."""
        answer = self.call("Page.navigate", url=address)
        if "errorText" in answer:
            raise PageError(f"{address}: {answer['errorText']}")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(PATIENCE_S)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']}")
                return answer["result"]
            self._event(answer)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise PageError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, script: str, seconds: float = PATIENCE_S) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise PageError(f"not within {seconds} s: {script}; console: {self.console}")
            time.sleep(0.05)
        return value

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key of the keyboard, down and up."""
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        name = " " if key == "Space" else key
        codes = {
            "Tab": 9, "Enter": 13, "Space": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
            "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
        }  # fmt: skip
        common = {"key": name, "code": key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 if shift else 0}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def tab_to(self, selector: str, most: int = 150) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(most):
            self.press("Tab")
            if self.run(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise PageError(f"Tab does not reach {selector}")

    def choose(self, *paths: Path) -> None:
        """Answer the dialogue that a file input has opened."""
        end = time.monotonic() + PATIENCE_S
        while self.chooser is None:
            assert time.monotonic() < end, "no dialogue was opened"
            self.run("0")
        node, self.chooser = self.chooser, None
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], backendNodeId=node)

    def drop(self, *paths: Path) -> None:
        """Files or folders of the disk, dropped in the middle of the window."""
        x, y = self.run("[innerWidth / 2, innerHeight / 2]")
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def picture(self, selector: str | None = None) -> Image.Image:
        """What the window shows, or of it the part of an element, which is scrolled into view; RGB."""
        box = None
        if selector is not None:
            box = self.run(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
                "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
                "return [b.left, b.top, b.right, b.bottom] })()"
            )
        data = self.call("Page.captureScreenshot", format="png")["data"]
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        return picture if box is None else picture.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))

    def _event(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Page.fileChooserOpened":
            self.chooser = told["backendNodeId"]
        elif method == "Runtime.consoleAPICalled":
            texts = [str(part.get("value", part.get("description"))) for part in told["args"]]
            self.console.append(f"{told['type']}: {' '.join(texts)}")
        elif method == "Runtime.exceptionThrown":
            self.console.append(f"exception: {told['exceptionDetails']}")
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{told['entry']['level']}: {told['entry']['text']} {told['entry'].get('url', '')}")

    def _next(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], seconds)[0]:
                raise PageError("Chromium does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise PageError("Chromium has ended")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

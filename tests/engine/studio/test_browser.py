"""The page in a real Chromium: the whole round by mouse and by keyboard alone, and what it does where things lack."""

from __future__ import annotations

import base64
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.chromium import Chromium, find_chromium

from .test_app import mask_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
    ),
]
DRAWN = "document.getElementById('pane-a')?.dataset.drawn"
BOX = """(() => { const b = document.getElementById('canvas-a').getBoundingClientRect();
  return [b.left, b.top, b.width, b.height]; })()"""
DROP = """(() => {{ const bytes = Uint8Array.from(atob('{data}'), (one) => one.charCodeAt(0));
  const items = new DataTransfer();
  items.items.add(new File([bytes], '{name}'));
  document.dispatchEvent(new DragEvent('drop', {{ bubbles: true, cancelable: true, dataTransfer: items }})); }})()"""
FETCH = """fetch('{path}', {{ headers: {{ Authorization: 'Bearer ' + location.hash.slice(1) }} }})
  .then((one) => one.arrayBuffer())
  .then((data) => btoa(Array.from(new Uint8Array(data), (one) => String.fromCharCode(one)).join('')))"""
STATE = "document.querySelector('#pane-a .state').textContent"


@contextmanager
def studio(bundle: Path, folder: Path, *options: str) -> Iterator[str]:
    """The address that the real command prints."""
    command = [
        sys.executable,
        "-m",
        "sbldm.cli.main",
        "studio",
        "--bundle",
        str(bundle),
        "--no-browser",
        "--threads",
        "1",
    ]
    with (folder / "studio.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", "0", *options], stdout=subprocess.PIPE, stderr=log, cwd=folder, text=True
        )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert "error" not in (folder / "studio.log").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def address(tiny_mask_first_bundle: Bundle, folder: Path) -> Iterator[str]:
    with studio(tiny_mask_first_bundle.path, folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser(address: str, folder: Path) -> Iterator[Chromium]:
    with Chromium(folder / "profile", size=(1500, 1000)) as chromium:
        chromium.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))
        chromium.visit(address)
        chromium.until(DRAWN)
        yield chromium


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No error on the console, no request but to the program itself."""
    yield
    if "browser" in request.fixturenames:
        browser, own = request.getfixturevalue("browser"), request.getfixturevalue("address").partition("#")[0]
        assert browser.console == []
        assert [url for url in browser.requests if not url.startswith((own, "data:", "blob:"))] == []


def set_to(browser: Chromium, selector: str, value: object) -> None:
    browser.run(
        f"(() => {{ const e = document.querySelector({selector!r}); e.value = {value!r};"
        "e.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def cell(browser: Chromium, column: str, nth: int) -> float:
    return float(browser.run(f"document.querySelector('#measured tr[data-column={column}]').cells[{nth}].textContent"))


def newly_drawn(browser: Chromium, before: str) -> str:
    browser.until(f"{DRAWN} !== {before!r}")
    return browser.run(DRAWN)


def downloaded(folder: Path, name: str) -> str:
    path = folder / "downloads" / name
    give_up = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.05)
    return path.read_text()


def test_the_whole_round(browser: Chromium, folder: Path, tiny_mask_first_bundle: Bundle) -> None:
    """Sliders, a click for the place, measured volume, own mask, basket; what is downloaded makes the same bytes."""
    drawn = browser.run(DRAWN)
    set_to(browser, "#steps", 1)
    drawn = newly_drawn(browser, drawn)
    set_to(browser, "#condition-volume_ml", 320)
    drawn = newly_drawn(browser, drawn)
    wished = float(browser.run("document.querySelector('#condition-volume_ml-exact').value"))
    assert cell(browser, "volume_ml", 1) == pytest.approx(wished, abs=0.06)
    assert cell(browser, "volume_ml", 2) == pytest.approx(wished, rel=0.05)  # the mask is solved for it

    browser.run("document.getElementById('clicks').click()")
    box = browser.run(BOX)
    x, y = box[0] + 0.20 * box[2], box[1] + 0.72 * box[3]  # in the axial section, on the patient's right
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    drawn = newly_drawn(browser, drawn)
    place = browser.run("document.querySelector('#pane-a .where').textContent")
    right = float(browser.run("document.querySelector('#condition-x-exact').value"))
    assert right > 5
    assert cell(browser, "x", 1) == pytest.approx(right, abs=0.1)
    assert "right" in place
    browser.run("document.getElementById('clicks').click()")
    browser.run("document.getElementById('keep').click()")
    browser.until("document.getElementById('basket').dataset.ready === '1'")
    assert len(browser.run("[...document.querySelectorAll('#rows li')].map(e => e.textContent)")) == 1

    drop(browser, "mine.nii.gz", mask_file())
    newly_drawn(browser, drawn)
    assert browser.run("document.getElementById('start').textContent").startswith("Around mine")
    masked = cell(browser, "volume_ml", 2)
    assert cell(browser, "volume_ml", 1) == pytest.approx(masked, abs=0.1)
    browser.run("document.getElementById('keep').click()")
    browser.run("document.getElementById('times').value = 2; document.getElementById('vary').click()")
    browser.until("document.getElementById('basket').dataset.ready === '4'")

    for name in ("csv", "command", "python"):
        browser.run(f"document.getElementById('save-{name}').click()")
    table, script = downloaded(folder, "basket.csv"), downloaded(folder, "basket.sh")
    downloaded(folder, "basket.py")
    assert len(table.splitlines()) == 5
    kept = browser.run("document.getElementById('pane-a').dataset.drawn").split()[0]
    masks = folder / "downloads" / "masks"
    masks.mkdir()
    (masks / "mine_seg.nii.gz").write_bytes(mask_file())
    commands = [line for line in script.splitlines() if line.startswith("sbldm-engine")]
    assert len(commands) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "downloads")
        for command in commands:
            assert main([*shlex.split(command.replace("MASKS", "masks"))[1:], "--quiet"]) == 0
    for base, run in (
        (drawn.split()[0], "basket/sbldm-000000/sbldm-000000"),
        (kept, "basket-2/sbldm-000001/sbldm-000001"),
    ):
        for role in ("t1", "flair", "seg"):
            assert (
                fetched(browser, f"{base}/{role}.nii.gz")
                == (folder / "downloads" / f"{run}_{role}.nii.gz").read_bytes()
            )
    assert (folder / "downloads/basket-2/sbldm-000003/sbldm-000003_t1.nii.gz").exists()  # what was varied
    browser.run("document.querySelector('#start button').click()")
    newly_drawn(browser, browser.run(DRAWN))


def fetched(browser: Chromium, path: str) -> bytes:
    """What the page gets from there."""
    return base64.b64decode(browser.run(FETCH.format(path=path)))


def drop(browser: Chromium, name: str, data: bytes) -> None:
    browser.run(DROP.format(name=name, data=base64.b64encode(data).decode()))


def test_the_page_is_small(browser: Chromium, address: str) -> None:
    sizes = browser.run(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/assets/')).map(e => e.encodedBodySize)"
    )
    assert len(sizes) == 11
    assert sum(sizes) < 2_000_000


def test_a_contradiction_is_told_and_shares_sum_to_one(browser: Chromium) -> None:
    set_to(browser, "#condition-volume_ml-exact", 5000)
    browser.until("document.querySelector('#messages .fault') !== null")
    assert "0.1 to" in browser.run("document.getElementById('messages').textContent")
    assert "contradicts" in browser.run(STATE)
    browser.run("document.getElementById('all-open').click()")
    browser.until("!document.querySelector('#messages .fault')")
    browser.run("document.querySelector('#shares .handle').focus()")
    for key in ("End", "ArrowLeft", "ArrowLeft"):
        browser.press(key)
    told = browser.run("document.querySelector('.shares-text').textContent")
    assert sum(int(share) for share in re.findall(r"(\d+) %", told)) == 100
    assert "drawn" not in told
    browser.until(f"{STATE}.startsWith('Case')")


def test_keyboard_alone(browser: Chromium) -> None:
    """Tab reaches what is needed; keys set a volume, a place, a tissue, keep it and save it."""
    browser.run("document.activeElement.blur(); document.querySelector('.skip').focus()")
    reached = set()
    for _ in range(60):
        browser.press("Tab")
        reached.add(browser.run("document.activeElement.id || document.activeElement.className"))
    assert reached >= {
        "condition-volume_ml", "condition-volume_ml-exact", "handle", "seed", "files", "folder", "canvas-a", "compare",
        "opacity", "keep", "vary", "save-csv", "save-command",
    }  # fmt: skip
    browser.run("document.getElementById('condition-volume_ml').focus()")
    drawn = browser.run(DRAWN)
    browser.press("PageUp")
    drawn = newly_drawn(browser, drawn)
    browser.run("document.getElementById('canvas-a').focus()")
    browser.press("ArrowRight")
    browser.press("Enter")
    drawn = newly_drawn(browser, drawn)
    ready = int(browser.run("document.getElementById('basket').dataset.ready"))
    browser.run("document.getElementById('keep').focus()")
    browser.press("Enter")
    browser.until(f"document.getElementById('basket').dataset.ready === '{ready + 1}'")


def test_side_by_side_with_one_crosshair(browser: Chromium) -> None:
    browser.run("document.getElementById('compare').click()")
    browser.until("document.getElementById('pane-b').dataset.drawn")
    drawn = browser.run("document.getElementById('pane-b').dataset.drawn")
    set_to(browser, "#condition-volume_ml-exact", 9)
    browser.until(f"document.getElementById('pane-b').dataset.drawn !== {drawn!r}")
    assert browser.run("document.querySelectorAll('#measured table').length") == 2
    browser.run("document.getElementById('canvas-a').focus()")
    for _ in range(3):
        browser.press("ArrowUp")
    first = browser.until("document.querySelector('#pane-a .where').textContent.split(' · ').slice(0, 3).join()")
    browser.until(f"document.querySelector('#pane-b .where').textContent.startsWith({first.split(',')[0]!r})")
    browser.run("document.getElementById('difference').click()")
    browser.until("document.getElementById('difference').getAttribute('aria-pressed') === 'true'")
    browser.run("document.getElementById('compare').click()")


def test_what_goes_wrong_is_said_on_the_page(browser: Chromium, address: str, folder: Path) -> None:
    browser.run("document.getElementById('own-state').textContent = ''")
    drop(browser, "x.nii.gz", b"no scan")
    browser.until("document.getElementById('own-state').className.includes('fault')")
    assert "unreadable" in browser.run("document.getElementById('own-state').textContent")
    del browser.console[:]  # the refusal stands there too


def test_without_webgl_pictures_and_without_a_token_a_word(address: str, tmp_path: Path) -> None:
    with Chromium(tmp_path, "--disable-3d-apis") as browser:
        browser.visit(address.partition("#")[0])
        browser.until("document.getElementById('gone')?.textContent")
        assert "no valid token" in browser.run("document.getElementById('gone').textContent")
        browser.visit("about:blank")
        browser.visit(address)
        browser.until("document.querySelector('#pane-a img')?.naturalWidth > 0")
        assert browser.run("getComputedStyle(document.getElementById('no-3d')).display") != "none"
        assert browser.run("document.getElementById('canvas-a').getClientRects().length") == 0
        assert "tumour of" in browser.run("document.querySelector('#pane-a img').alt")

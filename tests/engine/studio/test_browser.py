"""The page in a real Chromium: the whole round by mouse and by keyboard alone, and what it does where things lack."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from sbldm.benchmarks.chromium import Chromium, find_chromium
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.generator import Generator
from sbldm.engine.service.logs import Logs
from sbldm.engine.service.settings import Listening
from sbldm.engine.service.tokens import LOCAL, Tokens
from sbldm.engine.studio.app import create_app
from sbldm.engine.studio.studio import Studio
from sbldm.engine.telemetry import EventLog

from tests.support import scans

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
COVERED = """[...document.querySelectorAll('#basket button, #basket input')].filter((one) => {
  if (!one.checkVisibility()) return false;
  one.scrollIntoView({ behavior: 'instant' });
  const b = one.getBoundingClientRect();
  return !one.contains(document.elementFromPoint(b.left + b.width / 2, b.top + b.height / 2));
}).map((one) => one.outerHTML)"""
KEEP = "(() => { const e = document.getElementById('keep'); return [e.getAttribute('aria-disabled'), e.title]; })()"
BRIGHTER = """(() => { const real = window.fetch;
  window.fetch = async (path, more) => {
    const answer = await real(path, more);
    if (!path.startsWith('/api/volumes?')) return answer;
    window.fetch = real;
    const told = await answer.json();
    for (const name in told.windows) told.windows[name] *= 2;
    return new Response(JSON.stringify(told));
  }; })()"""
ROWS = "document.querySelectorAll('#rows li').length"


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


def covered(browser: Chromium, width: int, height: int) -> list[str]:
    """The basket's controls that something lies on, in a window of this size, once they are scrolled to."""
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    found = browser.run(COVERED)
    browser.call("Emulation.clearDeviceMetricsOverride")
    return found


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
    assert browser.run("document.getElementById('start').textContent").strip().startswith("Around mine")
    masked = cell(browser, "volume_ml", 2)
    assert cell(browser, "volume_ml", 1) == pytest.approx(masked, abs=0.1)
    shown = browser.run("document.getElementById('condition-volume_ml-exact').placeholder")
    assert float(shown) == pytest.approx(masked, abs=0.1)
    assert "(measured)" in browser.run("document.querySelector('.shares-text').textContent")
    assert "The mask decides" in browser.run("document.getElementById('decides').innerText")
    inactive = "['clicks', 'take-crosshair', 'all-open'].map((id) => document.getElementById(id).disabled)"
    assert browser.run(inactive) == [True] * 3
    assert browser.run("document.getElementById('typical').hidden")
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
    drawn = browser.run(DRAWN)
    browser.run("document.getElementById('without').click()")
    newly_drawn(browser, drawn)
    assert float(browser.run("document.getElementById('condition-volume_ml-exact').value")) == wished  # as it was
    assert browser.run("document.getElementById('decides').hidden")
    assert browser.run(inactive) == [False] * 3


def fetched(browser: Chromium, path: str) -> bytes:
    """What the page gets from there."""
    return base64.b64decode(browser.run(FETCH.format(path=path)))


def drop(browser: Chromium, name: str, data: bytes) -> None:
    browser.run(DROP.format(name=name, data=base64.b64encode(data).decode()))


def test_the_page_is_small(browser: Chromium, address: str) -> None:
    sizes = browser.run(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/assets/')).map(e => e.encodedBodySize)"
    )
    assert len(sizes) == 12
    assert sum(sizes) < 2_000_000


def test_a_contradiction_is_told_and_shares_sum_to_one(browser: Chromium) -> None:
    set_to(browser, "#condition-volume_ml-exact", 5000)
    browser.until("document.querySelector('#messages .fault') !== null")
    assert "0.1 to" in browser.run("document.getElementById('messages').textContent")
    assert "contradicts" in browser.run(STATE)
    before = browser.run(ROWS)
    for button in ("keep", "vary"):
        browser.run("document.getElementById('basket-state').textContent = ''")
        browser.run(f"document.getElementById('{button}').click()")
        assert "contradicts" in browser.run("document.getElementById('basket-state').textContent")
    assert browser.run(KEEP) == ["true", "This wish contradicts itself; see the messages."]
    border = "document.querySelector('#shares .handle').dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }))"
    browser.run("document.getElementById('all-open').click()")
    assert browser.run(f"({border}, {KEEP})") == ["true", "The volume of this wish is still being made."]
    browser.until("!document.querySelector('#messages .fault')")
    assert browser.run(ROWS) == before
    browser.run("document.querySelector('#shares .handle').focus()")
    for key in ("End", "ArrowLeft", "ArrowLeft"):
        browser.press(key)
    told = browser.run("document.querySelector('.shares-text').textContent")
    assert sum(int(share) for share in re.findall(r"(\d+) %", told)) == 100
    assert "drawn" not in told
    browser.until(f"{STATE}.startsWith('Case')")


def test_the_basket_holds_what_is_saved(browser: Chromium) -> None:
    browser.run("document.getElementById('all-open').click()")
    browser.until(f"{KEEP}[0] === 'false'")
    before = browser.run(ROWS)
    browser.run("document.getElementById('keep').click()")
    browser.until(f"{ROWS} === {before + 1}")
    assert browser.run(KEEP) == ["true", "This one is in the basket."]
    browser.run("document.getElementById('times').value = 201; document.getElementById('vary').click()")
    said = "document.getElementById('basket-state').textContent"
    assert browser.run(said) == "Vary it 1 to 200 times, not 201."
    browser.run("document.getElementById('times').value = 4")

    table, name = browser.run("document.getElementById('csv').textContent"), "document.querySelector('#rows input')"
    named = browser.run(f"{name}.value")
    browser.run(f"{name}.value = 'a\\u202eb'; {name}.dispatchEvent(new Event('change'))")
    assert "basket.csv:" in browser.until(f"{said}.includes('printable') && {said}")
    assert "wish.csv" not in browser.run(said)
    assert browser.run(f"{name}.value") == named
    assert browser.run("document.getElementById('csv').textContent") == table
    del browser.console[:]  # the refusal stands there too

    assert covered(browser, 1024, 768) == []
    browser.run("window.confirm = () => true; document.getElementById('empty').click()")
    browser.until(f"{ROWS} === 0")
    assert browser.run("document.getElementById('take').hidden")
    assert browser.run(KEEP) == ["false", ""]


def test_keyboard_alone(browser: Chromium, folder: Path) -> None:
    """Keys set a volume, a tissue, a place; choose a scan, show the difference, keep what was made and save it."""
    browser.run("document.activeElement.blur(); document.querySelector('.skip').focus()")
    drawn = browser.run(DRAWN)
    browser.tab_to("#condition-volume_ml")
    browser.press("Home")
    drawn = newly_drawn(browser, drawn)
    browser.tab_to("#shares .handle")
    browser.press("ArrowLeft")
    drawn = newly_drawn(browser, drawn)
    browser.tab_to("#canvas-a")
    browser.press("ArrowRight")
    browser.press("Enter")
    newly_drawn(browser, drawn)

    case = scans.write_case(folder, "chosen")  # whose brain the drawn case's place may lie outside of
    browser.run("document.activeElement.blur(); document.querySelector('.skip').focus()")
    browser.tab_to("#all-open")
    browser.press("Enter")
    browser.tab_to("#condition-volume_ml-exact")
    browser.call("Input.insertText", text="10")
    browser.tab_to("#shape summary")
    browser.press("Enter")
    for column, millimetres in (("w", "32.6"), ("h", "32.6"), ("d", "38.4")):
        browser.tab_to(f"#condition-{column}-exact")
        browser.call("Input.insertText", text=millimetres)
    browser.tab_to("#folder")
    browser.press("Enter")
    browser.choose(case)
    browser.until("document.getElementById('pane-b').dataset.drawn?.startsWith('/api/volumes')")
    assert browser.run("document.getElementById('start-name').textContent") == "From chosen"
    assert cell(browser, "volume_ml", 1) == pytest.approx(10, abs=0.01)  # the wish goes into the scan
    assert "every other voxel is the scan’s own" in browser.run("document.querySelector('#pane-b .state').textContent")
    browser.tab_to("#difference")
    browser.press("Space")
    browser.tab_to("#keep")
    before = browser.run("document.getElementById('basket').dataset.ready ?? '0'")
    browser.press("Enter")
    browser.until(f"document.getElementById('basket').dataset.ready === '{int(before) + 1}'")
    (folder / "downloads" / "basket-scan.csv").unlink(missing_ok=True)
    saved = "basket-scan" if before == "0" else "basket-scan-3"
    browser.tab_to("#save-csv")
    browser.press("Enter")
    assert len(downloaded(folder, f"{saved}.csv").splitlines()) > 1
    browser.run("document.activeElement.blur(); document.querySelector('.skip').focus()")
    browser.tab_to("#without")
    browser.press("Enter")
    browser.until("document.getElementById('start').hidden")
    browser.tab_to("#difference")
    browser.press("Space")
    browser.press("Tab", shift=True)
    browser.press("Enter")
    browser.until("document.getElementById('pane-b').hidden")
    browser.until(f"{STATE}.startsWith('Case')")


def test_a_dicom_folder_dropped_on_the_page(browser: Chromium, tmp_path: Path) -> None:
    """A real folder, its series in folders of their own; what comes of it stands beside it, the difference is shown."""
    pytest.importorskip("highdicom")
    from tests.support import dicom_study

    flat, study = dicom_study.write_study(tmp_path / "flat"), tmp_path / "DOE"
    for modality in dicom_study.MODALITIES:
        (study / modality).mkdir(parents=True)
        for number, path in enumerate(dicom_study.files_of(flat, modality)):
            path.rename(study / modality / f"IM{number}")
    (flat / "SEG").rename(study / "SEG")
    browser.drop(study)
    browser.until("document.getElementById('start-name').textContent === 'From DOE'")
    browser.until("document.getElementById('pane-a').dataset.drawn.startsWith('/api/given')")
    browser.until("document.getElementById('pane-b').dataset.drawn?.startsWith('/api/volumes')")
    assert browser.run("[...document.getElementById('use').options].map((one) => one.value)") == ["change"]
    plain = browser.picture("#canvas-b")
    browser.run("document.getElementById('difference').click()")
    end = time.monotonic() + 60
    while browser.picture("#canvas-b") == plain:
        assert time.monotonic() < end, "no difference is shown"
    browser.run("document.getElementById('difference').click(); document.getElementById('without').click()")
    browser.run("document.getElementById('compare').click()")
    browser.until(f"{STATE}.startsWith('Case')")


def test_side_by_side_with_one_crosshair(browser: Chromium) -> None:
    browser.run("document.getElementById('compare').click()")
    browser.until("document.getElementById('pane-b').dataset.drawn")
    drawn = browser.run("document.getElementById('pane-b').dataset.drawn")
    browser.run(BRIGHTER)  # a wider grey window for the next volume, which is that of B
    set_to(browser, "#condition-volume_ml-exact", 9)
    browser.until(f"document.getElementById('pane-b').dataset.drawn !== {drawn!r}")
    assert browser.run("document.querySelectorAll('#measured table').length") == 2
    whites = "['a', 'b'].map((side) => document.getElementById(`pane-${side}`).dataset.white)"
    assert len({*browser.run(whites)}) == 1  # one grey is one value
    together = browser.run(whites)[0]
    assert covered(browser, 1400, 933) == []
    browser.run("document.getElementById('canvas-a').focus()")
    for _ in range(3):
        browser.press("ArrowUp")
    first = browser.until("document.querySelector('#pane-a .where').textContent.split(' · ').slice(0, 3).join()")
    browser.until(f"document.querySelector('#pane-b .where').textContent.startsWith({first.split(',')[0]!r})")
    browser.run("document.getElementById('difference').click()")
    browser.until("document.getElementById('difference').getAttribute('aria-pressed') === 'true'")
    browser.run("document.getElementById('compare').click()")
    alone = browser.run(whites)
    assert float(alone[0]) < float(alone[1]) == float(together)


def test_what_goes_wrong_is_said_on_the_page(browser: Chromium, address: str, folder: Path) -> None:
    browser.run("document.getElementById('own-state').textContent = ''")
    drop(browser, "junk.nii.gz", b"no scan")
    browser.until("document.getElementById('own-state').className.includes('fault')")
    for place in ("own-state", "refused"):
        said = browser.run(f"document.getElementById('{place}').textContent")
        assert "unreadable" in said
        assert "junk.nii.gz" in said
        assert "junk_seg" not in said
    box = "document.getElementById('refused').getBoundingClientRect()"
    browser.until(f"0 <= {box}.top && {box}.top < {box}.bottom && {box}.bottom <= innerHeight")  # it scrolls there
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


def test_a_page_left_open_over_night(
    tiny_mask_first_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, as browsers freeze pages in the back: what it dropped is let go, it says so, and makes volumes again."""
    monkeypatch.setattr("sbldm.engine.studio.studio.LOOK_S", 0.1)
    with (
        Studio(Generator.load(tiny_mask_first_bundle.path, threads=1)) as night,
        listening(night) as (address, end),
        Chromium(tmp_path / "profile") as browser,
    ):
        browser.visit(address)
        drawn = browser.until(DRAWN)
        (tmp_path / "mine.nii.gz").write_bytes(mask_file())
        browser.drop(tmp_path / "mine.nii.gz")
        browser.until(f"{STATE}.includes('Case')")
        of_mask = newly_drawn(browser, drawn).split()[0].rpartition("/")[2]
        browser.call("Page.setWebLifecycleState", state="frozen")
        monkeypatch.setattr("sbldm.engine.studio.given.FORGOTTEN_S", 0.0)
        end_of_night = time.monotonic() + 60
        while night.given._held or night.maker.get(of_mask):
            assert time.monotonic() < end_of_night, "it is held all night"
            time.sleep(0.05)
        monkeypatch.setattr("sbldm.engine.studio.given.FORGOTTEN_S", 3600.0)
        browser.call("Page.setWebLifecycleState", state="active")
        browser.call("Page.bringToFront")
        assert "mine is not held any more" in browser.until("document.getElementById('lost').textContent")
        assert browser.run("document.getElementById('start').hidden")
        said = browser.run(STATE)
        set_to(browser, "#condition-volume_ml", 200)
        browser.until(f"{STATE}.startsWith('Case') && {STATE} !== {said!r}")
        assert browser.console == []
        end()
        set_to(browser, "#condition-volume_ml", 250)
        assert "does not answer any more" in browser.until("document.getElementById('gone').textContent")


@contextmanager
def listening(opened: Studio) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a studio's page, and what ends its server."""
    logs, token = Logs(EventLog("json")), "n" * 43
    tokens = Tokens({LOCAL: hashlib.sha256(token.encode()).hexdigest()})
    app = create_app(opened, Listening(rate=1000, burst=10_000), tokens, logs)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def end() -> None:
        server.should_exit = True
        thread.join(30)

    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/#{token}", end
    finally:
        end()
        logs.close()

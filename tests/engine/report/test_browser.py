"""The page in a real Chromium: it draws, every control works by keyboard, nothing is asked of any network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sbldm.benchmarks.chromium import Chromium, find_chromium
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.output.nifti import nifti_bytes
from sbldm.engine.run.description import read_description

from tests.support import scans

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
    ),
]
DRAWN = "document.documentElement?.dataset.drawn"
ORDER = """window.order = [];
new MutationObserver((changes) => changes.forEach(({ attributeName }) => window.order.push(attributeName)))
  .observe(document, { attributes: true, subtree: true, attributeFilter: ["data-sections", "data-drawn", "hidden"] });
"""  # what happens to the page, in its order


@pytest.fixture(scope="module")
def page(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two samples whose files hold phantoms of known shape: tumours on opposite sides."""
    folder = tmp_path_factory.mktemp("browser")
    arguments = ["--bundle", str(tiny_bundle.path), "--steps", "1", "--threads", "1", "--quiet", "--count", "2"]
    assert main(["generate", *arguments, "--out", str(folder / "run")]) == 0
    run = read_description(folder / "run")
    shape, spacing = run.bundle.grid.shape, run.bundle.grid.spacing_mm
    for sample, side in enumerate((40.0, -40.0)):
        case = scans.arrays(shape, spacing, tumour=(side, 0, 0))
        for role, path in run.layout().paths(sample).items():
            (folder / "run" / path).write_bytes(nifti_bytes(case[role], run.bundle.grid.affine, ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbldm.engine.report.facts.damaged_files", lambda *_: [])
        assert main(["report", str(folder / "run"), "--out", str(folder / "page.html"), "--quiet"]) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The page, opened once; its first volume is drawn."""
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        chromium.call("Page.addScriptToEvaluateOnNewDocument", source=ORDER)
        chromium.open(page)
        chromium.until(f"{DRAWN} === '0-flair'")
        yield chromium


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of the open page: no error on its console, no request but for the file and what lies in it."""
    yield
    if "browser" in request.fixturenames:
        browser = request.getfixturevalue("browser")
        page = request.getfixturevalue("page")
        assert browser.console == []
        assert [
            url for url in browser.requests if not url.startswith(("data:", "blob:")) and url != page.as_uri()
        ] == []


def canvas_of(browser: Chromium) -> np.ndarray:
    """Pixels (height, width, 3) of the picture once it is drawn."""
    browser.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(r))))")
    return np.asarray(browser.picture("#canvas"), int)


def panes(pixels: np.ndarray) -> dict[str, np.ndarray]:
    height, width = (n // 2 for n in pixels.shape[:2])
    return {
        "coronal": pixels[:height, :width], "sagittal": pixels[:height, width:],
        "axial": pixels[height:, :width], "render": pixels[height:, width:],
    }  # fmt: skip


def coloured(pixels: np.ndarray, least: int = 30) -> int:
    """How many pixels have a colour as the mask's have, not a grey or the crosshair's blue."""
    red, green, blue = (pixels[..., k] for k in range(3))
    return int(((np.maximum(red, green) - blue > least) & (np.maximum(red, green) > 60)).sum())


def grey(pixels: np.ndarray) -> int:
    return int(((pixels.max(-1) - pixels.min(-1) < 12) & (pixels.max(-1) > 40) & (pixels.max(-1) < 250)).sum())


def focus(browser: Chromium, selector: str) -> None:
    browser.run(f"document.querySelector({selector!r}).focus()")


def test_every_pane_shows_brain_and_tumour(browser: Chromium) -> None:
    for name, pane in panes(canvas_of(browser)).items():
        assert grey(pane) > 0.05 * pane[..., 0].size, name
        assert coloured(pane, 12 if name == "render" else 30) > 100, name  # the brain veils it in 3D


def test_the_sections_stand_before_the_3d_view_is_begun(browser: Chromium) -> None:
    """The 3D view takes a processor seconds; whoever waits sees the sections first, without the notice over them."""
    order = browser.run("window.order.join(' ')").split()
    assert order[:3] == ["data-sections", "hidden", "data-drawn"]
    assert order.count("data-sections") == 1


def test_sides_are_as_radiologists_see_them(browser: Chromium) -> None:
    """The tumour of sample 0 lies 40 mm to the patient's right: left in the axial and coronal pane."""
    shown = panes(canvas_of(browser))
    for name in ("axial", "coronal"):
        pane = shown[name]
        brain = np.flatnonzero((pane.max(-1) > 40).sum(0) > 20)
        tumour = np.flatnonzero(
            ((np.maximum(pane[..., 0], pane[..., 1]) - pane[..., 2] > 30) & (pane.max(-1) > 60)).any(0)
        )
        assert np.median(tumour) < np.median(brain), name
    assert re.match(r"\d+\.\d mm right", browser.run("document.getElementById('place').textContent"))


def test_the_opacity_slider_by_keyboard(browser: Chromium) -> None:
    focus(browser, "#opacity")
    browser.press("Home")
    assert browser.run("document.querySelector('output[for=opacity]').textContent") == "0 %"
    none = coloured(canvas_of(browser)[:, : 660 // 2])
    browser.press("End")
    full = coloured(canvas_of(browser)[:, : 660 // 2])
    assert none < 30
    assert full > 500
    browser.run(
        "(() => { const o = document.getElementById('opacity'); o.value = 45; o.dispatchEvent(new Event('input')) })()"
    )


def test_modalities_by_keyboard(browser: Chromium) -> None:
    before = canvas_of(browser)
    focus(browser, "input[name=modality]:checked")
    browser.press("ArrowLeft")
    browser.until(f"{DRAWN} === '0-t2'")
    after = canvas_of(browser)
    assert np.abs(before - after).mean() > 1
    assert " T2 " in browser.run("document.getElementById('place').textContent")
    browser.press("ArrowRight")
    browser.until(f"{DRAWN} === '0-flair'")


def test_the_crosshair_by_keyboard(browser: Chromium) -> None:
    def place() -> list[float]:
        words = browser.run("document.getElementById('place').textContent").split("·")[:3]
        return [float(w.split()[0]) * (-1 if w.split()[2] in ("left", "back", "down") else 1) for w in words]

    focus(browser, "#canvas")
    start = place()
    for key, axis, sign in [("ArrowRight", 0, -1), ("ArrowUp", 1, 1), ("PageUp", 2, 1)]:
        before = place()
        browser.press(key)
        moved = [b - a for a, b in zip(before, place(), strict=True)]
        assert moved[axis] * sign > 1, key
        assert [abs(m) < 0.2 for k, m in enumerate(moved) if k != axis] == [True, True], key
    for key in ("ArrowLeft", "ArrowDown", "PageDown"):
        browser.press(key)
    assert place() == pytest.approx(start, abs=0.2)


def test_views(browser: Chromium) -> None:
    focus(browser, "input[name=view]:checked")
    browser.press("ArrowRight")
    axial = canvas_of(browser)
    middle = axial[axial.shape[0] // 3 : -axial.shape[0] // 3, axial.shape[1] // 3 : -axial.shape[1] // 3]
    assert grey(middle) + coloured(middle) > 0.5 * middle[..., 0].size  # one section fills the picture
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('input[name=view]:checked').value") == "all"


def test_turning_and_cutting_change_the_3d_view_alone(browser: Chromium) -> None:
    before = panes(canvas_of(browser))
    for slider in ("turn", "cut"):
        focus(browser, f"#{slider}")
        for _ in range(8):
            browser.press("ArrowRight")
        after = panes(canvas_of(browser))
        assert np.abs(before["render"] - after["render"]).mean() > 1, slider
        assert np.abs(before["axial"] - after["axial"]).mean() < 0.2, slider
        before = after


def test_the_next_case_and_a_case_of_the_list(browser: Chromium) -> None:
    focus(browser, "#next")
    browser.press("Enter")
    browser.until(f"{DRAWN} === '1-flair'")
    assert re.match(r"\d+\.\d mm left", browser.run("document.getElementById('place').textContent"))
    assert browser.run("document.getElementById('next').disabled")
    focus(browser, "button.look[value='0']")
    browser.press("Enter")
    browser.until(f"{DRAWN} === '0-flair'")
    assert browser.run("document.activeElement.id") == "canvas"


def test_tab_reaches_every_control(browser: Chromium) -> None:
    browser.run("document.activeElement.blur(); scrollTo(0, 0)")
    browser.run("document.querySelector('.skip').focus()")
    reached = set()
    for _ in range(24):
        browser.press("Tab")
        reached.add(browser.run("document.activeElement.id || document.activeElement.name || ''"))
    assert {"canvas", "case", "next", "modality", "view", "opacity", "turn", "cut"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Chromium, scheme: str) -> None:
    """Text against its background: at least 4.5 to 1 (WCAG AA) in both schemes."""
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    colours = browser.run(
        "(() => { const s = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(['paper','card','ink','faint','accent','accent-ink','warn','warn-paper'].map("
        "n => [n, s.getPropertyValue('--' + n).trim()])) })()"
    )
    pairs = [(ink, paper) for ink in ("ink", "faint", "accent") for paper in ("paper", "card")]
    for ink, paper in [*pairs, ("accent-ink", "accent"), ("warn", "warn-paper"), ("warn", "card")]:
        assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    body = browser.picture().getpixel((2, 200))
    assert isinstance(body, tuple)
    assert (sum(body) < 150) == (scheme == "dark")


def contrast(one: str, other: str) -> float:
    """Ratio of WCAG 2 between two colours as #rrggbb."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_without_webgl_the_page_says_so_and_shows_pictures(page: Path, tmp_path: Path) -> None:
    with Chromium(tmp_path, "--disable-3d-apis") as browser:
        browser.open(page)
        browser.until("document.getElementById('picture')?.naturalWidth > 0")
        assert browser.run("getComputedStyle(document.getElementById('no-3d')).display") != "none"
        assert browser.run("document.getElementById('canvas').getClientRects().length") == 0
        assert browser.run("[...document.querySelectorAll('#controls input')].every(i => !i.getClientRects().length)")
        first = browser.run("document.getElementById('picture').src")
        focus(browser, "#next")
        browser.press("Enter")
        browser.until("document.getElementById('picture').alt.startsWith('Sample 1')")
        assert browser.run("document.getElementById('picture').src") != first
        assert isinstance(browser.picture("#picture"), Image.Image)
        assert browser.console == []

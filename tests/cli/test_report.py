"""`sbldm-engine report`: what the page holds, what is refused, and that a case's command makes the case again."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.folder import Folder
from sbldm.engine.report import write
from sbldm.engine.run.description import read_description
from sbldm.engine.run.ledger import LedgerIndex
from sbldm.engine.run.manifest import write_manifest
from sbldm.engine.run.volumes import UnreadableError

from tests.support import scans
from tests.support.schemas import held_to

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The elements of a page: tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, str | None, str]] = []  # tag, type, text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs).get("type"))

    def handle_data(self, data: str) -> None:
        if self.tags and self._open[0] in ("script", "style"):
            self.inline.append((*self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", None)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of three samples, the first with a hostile id. Do not write to it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "cond.csv").write_text(f"id,volume_ml\n{HOSTILE},40\nplain,\n,90\n")
    arguments = ["--bundle", str(tiny_bundle.path), "--steps", "2", "--threads", "1", "--seed", "5", "--quiet"]
    assert main(["generate", *arguments, "--conditions", str(folder / "cond.csv"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def page_of(run: Path, out: Path, *options: str, code: int = 0) -> str:
    assert main(["report", str(run), "--out", str(out), "--quiet", *options]) == code
    return out.read_text()


def forge_faults(run: Path, faults: dict[int, str]) -> None:
    """The run as if these samples had failed: ledger, manifest and files agree."""
    description = read_description(run)
    records = [
        replace(record, files=(), measured={}, fault=faults[record.sample]) if record.sample in faults else record
        for record in LedgerIndex.of(run).records()
    ]
    (run / "ledger.jsonl").write_bytes(b"".join(record.to_line(description.id) for record in records))
    for sample in faults:
        shutil.rmtree(run / f"sbldm-{sample:06d}")
    with Folder(run) as folder:
        write_manifest(folder, description, LedgerIndex.of(run))


def test_the_page_asks_for_nothing_and_runs_its_own_scripts_alone(run: Path, tmp_path: Path) -> None:
    page = Page(page_of(run, tmp_path / "page.html"))
    policy = next(m["content"] or "" for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    run_by_the_browser = [text for tag, kind, text in page.inline if tag == "style" or kind is None]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run_by_the_browser}
    assert hashes == set(re.findall(r"'sha256-([^']+)'", policy))
    assert len(hashes) == 4
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        for name in ("src", "href"):
            assert re.match(r"data:image/png;base64,|#", attributes.get(name) or "#")
    assert [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base")] == []


def test_ids_are_text(run: Path, tmp_path: Path) -> None:
    text = page_of(run, tmp_path / "page.html")
    assert HOSTILE not in text
    assert unescape(text).count(HOSTILE) >= 3  # case, table, plots
    assert not [one for one in Page(text).of("img") if one.get("src") == "x"]


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first = page_of(run, tmp_path / "a.html")
    moved = run.rename(tmp_path / "elsewhere")
    assert main(["report", str(moved), "--quiet"]) == 0
    assert (moved / "report.html").read_text() == first
    assert main(["verify", str(moved)]) == 0  # the report is a file of the run


def test_every_case_can_be_made_again(run: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    text = page_of(run, tmp_path / "page.html", "--bundle", str(tiny_bundle.path))
    commands = [unescape(found) for found in re.findall(r"<code>(sbldm-engine generate [^<]+)</code>", text)]
    assert len(commands) == 3
    conditions = tmp_path / "cond.csv"
    conditions.write_text(f"id,volume_ml\n{HOSTILE},40\nplain,\n,90\n")
    assert hashlib.sha256(conditions.read_bytes()).hexdigest() in text
    again = {"BUNDLE": str(tiny_bundle.path), "CONDITIONS.csv": str(conditions), "sample-1": str(tmp_path / "again")}
    words = [again.get(word, word) for word in shlex.split(commands[1])[1:]]
    assert main([*words, "--quiet"]) == 0
    name = "sbldm-000001"
    files = sorted(path.name for path in (run / name).iterdir())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "again" / name / file).read_bytes() == (run / name / file).read_bytes()


def test_what_failed_is_told(run: Path, tmp_path: Path, capsys) -> None:
    forge_faults(run, {1: "the decoder gave <NaN>"})
    text = page_of(run, tmp_path / "page.html", "--cases", "0-1")
    assert "the decoder gave &lt;NaN&gt;" in text
    assert "sample 1 of --cases failed" in text
    assert 'id="volume-0-seg"' in text
    assert 'id="volume-1-seg"' not in text
    assert "1 of 3 samples failed" in capsys.readouterr().err


def test_a_run_without_any_good_sample(run: Path, tmp_path: Path) -> None:
    forge_faults(run, {0: "first", 1: "second", 2: "third"})
    text = page_of(run, tmp_path / "page.html")
    assert "There is no case to show" in text
    assert "third" in text
    assert "<canvas" not in text


def test_changed_missing_and_foreign_files_are_named(run: Path, tmp_path: Path) -> None:
    (run / "sbldm-000000/sbldm-000000_t1.nii.gz").write_bytes(b"")
    (run / "sbldm-000001/sbldm-000001_seg.nii.gz").unlink()
    (run / "<notes>.txt").write_text("mine")
    (run / "manifest.csv").unlink()
    text = unescape(page_of(run, tmp_path / "page.html"))
    assert "sample 0 is not shown: sbldm-000000/sbldm-000000_t1.nii.gz is changed" in text
    assert "sample 1 is not shown: sbldm-000001/sbldm-000001_seg.nii.gz is missing" in text
    assert "such as <notes>.txt" in text
    assert "has no manifest.csv" in text
    assert (run / "<notes>.txt").read_text() == "mine"


def test_a_foreign_name_that_is_no_text(run: Path, tmp_path: Path) -> None:
    (run / os.fsdecode(b"bad-\xff-\xe2\x80\xae.txt")).write_text("")
    assert "such as bad-\\udcff-\\u202e.txt" in unescape(page_of(run, tmp_path / "page.html"))


def test_chosen_cases(run: Path, tmp_path: Path, capsys) -> None:
    text = page_of(run, tmp_path / "page.html", "--cases", "2", "--json")
    assert re.findall(r'id="volume-(\d)-seg"', text) == ["2"]
    assert "2 good samples are not shown as volumes" in text
    result = held_to("report", capsys.readouterr().out)
    assert (result["cases"], result["samples"], result["bytes"]) == (1, 3, (tmp_path / "page.html").stat().st_size)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--cases", "3"], 2, "--cases 3: 3 is not within 0-2"),
        (["--cases", "first"], 2, "--cases first"),
        (["--bundle", "phantom"], 2, "the run was made with"),
        (["--real", "nowhere"], 3, "nowhere"),
        (["--out", "."], 2, "is no regular file"),
    ],
)
def test_what_is_refused_writes_nothing(
    run: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), "--quiet", *options]) == code
    assert named in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (run / "report.html").exists()


def test_too_large_a_page(run: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MAX_BYTES", 400_000)
    assert main(["report", str(run), "--quiet"]) == 2
    assert "--large" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    assert main(["report", str(run), "--quiet", "--large"]) == 0


@pytest.mark.parametrize("content", [None, "{}"])
def test_no_run(tmp_path: Path, capsys, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 3
    assert "run.json" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_file_that_spoils_on_the_way_leaves_the_old_page(run: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "report.html").write_text("the old page")

    def spoiled(*_: object) -> None:
        raise UnreadableError("sbldm-000000_t1.nii.gz: not a readable file of this run")

    monkeypatch.setattr("sbldm.engine.report.page.embed_case", spoiled)
    assert main(["report", str(run), "--quiet"]) == 3
    assert "sbldm-000000_t1.nii.gz" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "the old page"
    assert not list(run.glob("*.tmp"))


def test_beside_a_real_cohort(run: Path, tmp_path: Path, capsys) -> None:
    for number, tumour in enumerate([(30, 20, 10), (-30, 0, 10), (20, -30, 0)]):
        scans.write_case(tmp_path / "real", f"real-{number}", scans.arrays(tumour=tumour))
    broken = scans.arrays() | {"seg": scans.arrays()["seg"] * 2}
    scans.write_case(tmp_path / "real", "broken-<1>", broken)
    mask = scans.write_case(tmp_path / "ours", "added", scans.arrays()) / "added_seg.nii.gz"
    made = nib.load(mask)
    made.header["descrip"] = b"SYNTHETIC sbldm-engine 0.2.0 seed 0 sample 0"
    nib.save(made, mask)
    shutil.copytree(tmp_path / "ours" / "added", tmp_path / "real" / "added")
    text = page_of(run, tmp_path / "page.html", "--real", str(tmp_path / "real"))
    assert "3 synthetic tumours beside 3 real ones" in text
    assert text.count('class="real"') == 12
    assert "broken-&lt;1&gt;" in text
    told = capsys.readouterr().err
    assert "broken-<1>" in told
    assert "1 case made by sbldm-engine, such as added: left out, they are not real" in told
    assert main(["report", str(run), "--out", str(tmp_path / "none.html"), "--real", str(tmp_path / "ours")]) == 3
    assert "no real case can be measured" in capsys.readouterr().err


def test_generate_writes_it(tiny_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["--bundle", str(tiny_bundle.path), "--steps", "1", "--threads", "1", "--quiet", "--report"]
    assert main(["generate", *arguments, "--count", "1", "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run/report.html").read_text()
    assert 'id="volume-0-t1"' in text
    assert "<h3>" in text.partition('class="card"')[2]  # the model card
    assert main(["verify", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["run.json", "ledger.jsonl", "audit.jsonl", "sbldm-000000/sbldm-000000_t1.nii.gz"])
def test_a_file_that_is_no_page_is_never_replaced(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    copy = shutil.copytree(made, tmp_path / "run")
    before = (copy / name).read_bytes()
    assert main(["report", str(copy), "--out", str(copy / name)]) == 2
    assert "holds something else than a page" in capsys.readouterr().err
    assert (copy / name).read_bytes() == before
    assert main(["report", str(copy)]) == 0

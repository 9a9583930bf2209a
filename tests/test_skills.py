"""The pages of docs/skills: their commands run in order and leave what the pages name, in words of the program.

The shipped model is a tiny one here, cohorts, scans and studies are small, and in the place of a training, which
tests/train has, stand its checkpoints.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.kernels.launcher import GpuUnavailableError, cuda_driver

from tests.support import scans

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs" / "skills").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
HERE = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"^- `([\w./-]+)`:", re.MULTILINE)
SIGN = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
TAKES_A_BUNDLE = {("generate",), ("augment",), ("doctor",), ("conditions", "check"), ("conditions", "sample")}


def has_gpu() -> bool:
    try:
        return cuda_driver().Device.count() > 0
    except GpuUnavailableError:
        return False


def cohort(root: Path) -> None:
    scans.write_case(root / "cohort", "A")
    scans.write_case(root / "cohort", "B", scans.arrays(tumour=(-30, 15, 5)))


def nnunet(root: Path) -> None:
    raw = root / "nnUNet_raw"
    raw.mkdir()
    scans.write_nnunet(
        raw / "Dataset501_Mine", {"background": 0, "necrosis": 1, "edema": 2, "enhancing tumor": 3}, cases=2
    )
    described = json.loads((raw / "Dataset501_Mine" / "dataset.json").read_text())
    names = described | {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}}
    (raw / "Dataset501_Mine" / "dataset.json").write_text(json.dumps(names))
    splits = root / "nnUNet_preprocessed" / "Dataset501_Mine" / "splits_final.json"
    splits.parent.mkdir(parents=True)
    folds = [{"train": ["P_001"], "val": ["P_000"]}, {"train": ["P_000"], "val": ["P_001"]}]
    splits.write_text(json.dumps(folds))


def masks(root: Path) -> None:
    for name, tumour in (("A", (32, 20, 10)), ("B", (-30, 15, 5))):
        scans.write_case(root / "masks", name, {"seg": scans.arrays(tumour=tumour)["seg"]})


def study(root: Path) -> None:
    pytest.importorskip("highdicom")
    from tests.support.dicom_study import write_study

    write_study(root / "study")


PREPARED: dict[str, Callable[[Path], object]] = {
    "own_model": cohort,
    "cohort_to_nnunet": nnunet,
    "own_masks": masks,
    "lesion_into_scan": lambda root: scans.write_case(root, "case"),
    "dicom": study,
}


def commands(page: Path) -> list[list[str]]:
    """The lines of the blocks marked bash; tables that they write are written."""
    blocks = "".join(BLOCK.findall(page.read_text(encoding="utf-8")))
    for name, text in HERE.findall(blocks):
        Path(name).write_text(text)
    lines = [line for line in HERE.sub("", blocks).splitlines() if line.strip()]
    assert all(line.startswith("sbldm-engine ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def tiny(arguments: list[str], bundles: dict[str, Bundle]) -> list[str]:
    """The same command with a tiny model; of a training what it would do."""
    is_bundle = arguments[0] != "train"  # where these words are presets
    given = [str(bundles[word].path) if is_bundle and word in bundles else word for word in arguments]
    if tuple(arguments[:1]) in TAKES_A_BUNDLE or tuple(arguments[:2]) in TAKES_A_BUNDLE:
        given += [] if "--bundle" in given else ["--bundle", str(bundles["phantom"].path)]
    if arguments[0] == "train":
        given += [] if "--dry-run" in given else ["--dry-run"]
    if arguments[0] in ("generate", "augment"):
        given += ["--steps", "1", *(["--threads", "1"] if "--threads" not in given else [])]
    return given


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_preprocessed", "nnUNet_preprocessed")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_is_what_happens(
    page: Path, work: Path, tiny_bundle: Bundle, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = {"phantom": tiny_bundle}
    if page.stem in ("own_masks", "lesion_into_scan"):
        bundles["glioma"] = request.getfixturevalue("tiny_mask_first_bundle")
    if page.stem in PREPARED:
        PREPARED[page.stem](work)
    if page.stem == "own_model":
        shutil.copytree(request.getfixturevalue("tiny_checkpoint"), work / "runs" / "mine")
    for arguments in commands(page):
        code = main(tiny(arguments, bundles))
        printed = capsys.readouterr()
        if "cuda" in arguments and not has_gpu():
            assert code == 4, printed.err
            return
        assert code == 0, (arguments, printed.err)
    named = MADE.findall(page.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (work / name).exists()] == []


def test_every_page_is_of_one_form() -> None:
    assert len(PAGES) == 8
    index = (ROOT / "docs" / "skills" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Run", "Success", "What goes wrong"], page.name
        assert "**When:**" in text
        assert "**Needs:**" in text
        assert f"]({page.name})" in index


def test_signs_are_words_of_the_program() -> None:
    """What a page says that goes wrong is told in these words; line ends and inserted values aside."""
    sources = [path for floor in ("engine", "cli", "train", "export") for path in (ROOT / floor).rglob("*.py")]
    text = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text(encoding="utf-8") for path in sources))
    told = re.sub(r"\{[^{}]*\}", "#", text).replace('\\"', '"')
    signs = [(page.name, sign) for page in PAGES for sign in SIGN.findall(page.read_text(encoding="utf-8"))]
    assert len(signs) > 20
    assert [sign for sign in signs if sign[1] not in told] == []

"""The tables of conventions in docs/data.md, from the code that reads them."""

from __future__ import annotations

from .labels import LabelMap, known_spellings
from .names import BIDS, CHALLENGES, CHANNEL_NAMES, CONVENTIONS

BEGIN, END = "<!-- conventions: generated -->", "<!-- conventions: end -->"


def conventions_markdown() -> str:
    """Three Markdown tables: file names, channels of `dataset.json`, label names."""
    names = [
        (
            convention.title,
            ", ".join(f"`{word}`" for word in convention.shown().split(", ")),
            "by a table beside it (`*dseg.tsv`: index, name); a `_mask` is one tumour label"
            if convention is BIDS or convention.labels is None
            else LabelMap(convention.labels, "").described(),
        )
        for convention in CONVENTIONS
    ]
    challenges = [
        (
            f"`BraTS-{name}-...`",
            "as above",
            "differs from year to year: refused without `--labels`"
            if labels is None
            else LabelMap(labels, "").described(),
        )
        for name, labels in CHALLENGES.items()
    ]
    described = [
        ("nnU-Net 2", "`dataset.json`, `imagesTr/CASE_0000`, `labelsTr/CASE`, or the cases that `dataset` lists",
         "`labels` by name: numbers or regions, `ignore`"),
        ("nnU-Net 1, Decathlon", "`dataset.json` with `modality` and `training`; one 4D file or `CASE_0000`",
         "`labels` by name"),
    ]  # fmt: skip
    channels = [(modality, ", ".join(spellings)) for modality, spellings in CHANNEL_NAMES.items()]
    return "\n\n".join(
        (
            _table(("data set", "file names, ending in `.nii.gz` or `.nii`", "labels"), names + challenges + described),
            _table(("channel of `dataset.json`", "spellings (case and punctuation do not count)"), channels),
            _table(("label or region", "spellings"), list(known_spellings())),
        )
    )


def with_conventions(text: str) -> str:
    """A Markdown text with the tables between its two marks made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{conventions_markdown()}\n{END}{tail}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    import sys
    from pathlib import Path

    from ..files import write_atomic

    path = Path(sys.argv[1])
    write_atomic(path, with_conventions(path.read_text("utf-8")).encode())

"""The model card of a bundle, and what it says of an evaluation."""

from __future__ import annotations

from ..errors import InvalidInputError
from ..files import read_bounded
from .load import Bundle

CARD_NAME = "README.md"
EVALUATION = "## Evaluation"  # the card's last section
MAX_CARD_BYTES = 4 * 2**20


def read_evaluation(bundle: Bundle) -> str | None:
    """The evaluation section of the card, Markdown without its heading; None where nothing was measured.

    Raises:
        InvalidInputError: the card cannot be read.
    """
    if CARD_NAME not in bundle.manifest.files:
        return None
    path = bundle.path / CARD_NAME
    try:
        card = read_bounded(path, MAX_CARD_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: not readable as UTF-8 text ({error})") from error
    _, found, section = card.partition(f"\n{EVALUATION}\n")
    return section.strip() if found else None

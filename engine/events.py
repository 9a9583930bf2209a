"""What the engine tells while it works: warnings and signs of life, on the logger `sbldm`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

SIGN_OF_LIFE_S = 5.0


def every_few_seconds() -> Callable[[str], None]:
    """A function that logs what it is called with, first after `SIGN_OF_LIFE_S` and then as often again."""
    logger, last = logging.getLogger("sbldm"), time.monotonic()

    def tell(message: str) -> None:
        nonlocal last
        if time.monotonic() - last > SIGN_OF_LIFE_S:
            last = time.monotonic()
            logger.info(message)

    return tell

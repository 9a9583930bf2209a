"""Which samples of a run this process makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import UsageError
from .ledger import Shard


@dataclass(frozen=True)
class Selection:
    """Which samples of a run this process makes."""

    count: int
    batch_size: int
    shard: Shard
    samples: tuple[int, ...] | None = None  # sorted; None: all

    def __iter__(self) -> Iterator[int]:
        wanted: Iterable[int] = range(self.count) if self.samples is None else self.samples
        return (s for s in wanted if self.owns(s))

    def owns(self, sample: int) -> bool:
        """Whether the sample's batch belongs to this shard."""
        return sample // self.batch_size % self.shard.count == self.shard.index


def parse_samples(text: str, count: int) -> tuple[int, ...]:
    """The sample numbers of "3,7-9", sorted, each once.

    Raises:
        UsageError: not such a list, or a number outside 0..count-1.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) < 19 for end in ends):
            raise UsageError(f"--samples {text}: {part.strip()!r} is neither a number nor a range; write it as 3,7-9")
        low, high = int(ends[0]), int(ends[1])
        if low > high or high >= count:
            raise UsageError(
                f"--samples {text}: {part.strip()} is not within 0-{count - 1} of this run, low number first"
            )
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def parse_shard(text: str) -> Shard:
    """The shard of "I/N", I from 0 to N-1; UsageError otherwise."""
    index, slash, count = text.partition("/")
    if not (slash and all(p.isascii() and p.isdigit() and len(p) < 10 for p in (index, count))):
        raise UsageError(f"--shard {text}: write it as I/N, such as 0/4")
    if not int(index) < int(count):
        raise UsageError(f"--shard {text}: I must be from 0 to N-1, here 0 to {max(int(count) - 1, 0)}")
    return Shard(int(index), int(count))

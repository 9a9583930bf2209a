"""Which samples of a run this process makes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from ..errors import UsageError
from .ledger import Shard

MAX_LISTED = 10_000_000  # numbers that --samples names


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

    def __len__(self) -> int:
        if self.samples is not None:
            return sum(self.owns(sample) for sample in self.samples)
        turn = self.batch_size * self.shard.count
        turns, rest = divmod(self.count, turn)
        return turns * self.batch_size + min(max(rest - self.shard.index * self.batch_size, 0), self.batch_size)

    def __contains__(self, sample: object) -> bool:
        if not isinstance(sample, int) or not 0 <= sample < self.count or not self.owns(sample):
            return False
        if self.samples is None:
            return True
        place = bisect_left(self.samples, sample)
        return place < len(self.samples) and self.samples[place] == sample

    def owns(self, sample: int) -> bool:
        """Whether the sample's batch belongs to this shard."""
        return sample // self.batch_size % self.shard.count == self.shard.index


@dataclass(frozen=True)
class Remaining:
    """The samples of a selection that are not done yet, in order; flat in the size of the selection."""

    selection: Selection
    done: Set[int]  # samples of the selection

    def __iter__(self) -> Iterator[int]:
        return (sample for sample in self.selection if sample not in self.done)

    def __len__(self) -> int:
        return len(self.selection) - len(self.done)


def parse_samples(text: str, count: int, option: str = "--samples") -> tuple[int, ...]:
    """The sample numbers of "3,7-9", sorted, each once; `option` is what messages call the text.

    Raises:
        UsageError: not such a list, or a number outside 0..count-1.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) < 19 for end in ends):
            raise UsageError(f"{option} {text}: {part.strip()!r} is neither a number nor a range; write it as 3,7-9")
        low, high = int(ends[0]), int(ends[1])
        if low > high or high >= count:
            raise UsageError(
                f"{option} {text}: {part.strip()} is not within 0-{count - 1} of this run, low number first"
            )
        if high - low >= MAX_LISTED:
            raise UsageError(f"{option} {text}: at most {MAX_LISTED} numbers; take a part of the run by --shard I/N")
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

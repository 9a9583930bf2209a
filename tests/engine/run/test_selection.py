"""Which samples a process makes."""

from __future__ import annotations

from sbldm.engine.run.ledger import Shard
from sbldm.engine.run.selection import Selection


def test_shards_take_whole_batches_by_turns_and_every_sample_once() -> None:
    parts = [list(Selection(11, 2, Shard(index, 3))) for index in range(3)]
    assert parts == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]


def test_asked_samples_go_to_the_shard_of_their_batch() -> None:
    assert list(Selection(11, 2, Shard(1, 3), (1, 2, 8))) == [2, 8]
    assert list(Selection(11, 2, Shard(), (1, 2, 8))) == [1, 2, 8]

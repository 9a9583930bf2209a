"""Which samples a process makes, without a list of them."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.errors import UsageError
from sbldm.engine.run.ledger import Shard
from sbldm.engine.run.selection import Remaining, Selection, parse_samples


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.data())
def test_length_and_membership_are_those_of_the_list(count: int, batch: int, shards: int, data: st.DataObject) -> None:
    shard = Shard(data.draw(st.integers(0, shards - 1)), shards)
    samples = data.draw(st.none() | st.sets(st.integers(0, count - 1)).map(lambda found: tuple(sorted(found))))
    selection = Selection(count, batch, shard, samples)
    listed = [s for s in (range(count) if samples is None else samples) if s // batch % shards == shard.index]
    assert list(selection) == listed
    assert len(selection) == len(listed)
    assert [s for s in range(-2, count + 2) if s in selection] == listed
    done = frozenset(listed[::2])
    rest = Remaining(selection, done)
    assert list(rest) == listed[1::2]
    assert len(rest) == len(listed[1::2])


def test_a_run_of_a_million_million_samples_takes_no_memory() -> None:
    tracemalloc.start()
    rest = Remaining(Selection(10**12, 1, Shard()), frozenset({0}))
    assert len(rest) == 10**12 - 1
    assert next(iter(rest)) == 1
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_list_of_samples_has_an_end() -> None:
    with pytest.raises(UsageError, match="at most 10000000 numbers"):
        parse_samples("0-999999999", 10**12)

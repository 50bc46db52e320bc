from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.sampling import Bucketed, InOrder, Shuffled, Slices, Wanted
from trainer.errors import TrainerError


@given(
    length=st.integers(1, 200),
    size=st.integers(1, 40),
    world=st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_the_slices_of_all_ranks_are_the_batches_of_one(
    length: int, size: int, world: int, seed: int
) -> None:
    alone = list(Slices(Shuffled(length, seed, 1), size))
    assert len(alone) == len(Slices(Shuffled(length, seed, 1), size))
    assert all(len(batch) == min(size, length) for batch in alone)
    together = [index for batch in alone for index in batch]
    assert len(set(together)) == len(together) > length - min(size, length)
    if min(size, length) < world:
        with pytest.raises(TrainerError, match="cannot be shared by"):
            Slices(Shuffled(length, seed, 1, 0, world), size)
        return
    slices = [Slices(Shuffled(length, seed, 1, rank, world), size) for rank in range(world)]
    for batch, *parts in zip(alone, *slices, strict=True):
        assert [index for part in parts for index in part] == batch
        counts = {len(part) for part in parts}
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1
        for part, rank in zip(parts, slices, strict=True):
            assert part[0] == batch[rank.first]


@given(length=st.integers(1, 100), size=st.integers(1, 20), world=st.integers(1, 5))
def test_validation_leaves_nothing_out(length: int, size: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        slices = Slices(InOrder(length, rank, world), size)
        batches = list(slices)
        assert len(batches) == len(slices)
        seen += [index for batch in batches for index in batch]  # type: ignore[misc]
    assert sorted(seen) == list(range(length))


def wanted(order: Bucketed, size: int) -> list[list[Wanted]]:
    return list(order.batches(size))


def test_short_segments_share_batches_that_are_then_short() -> None:
    samples = np.array([1000] * 60 + list(range(100, 140)))
    batches = wanted(Bucketed(samples, 7, 1, multiple=32, longest=1000), 10)
    assert sorted(item.number for batch in batches for item in batch) == list(range(100))
    padding = 0
    for batch in batches:
        own = [int(samples[item.number]) for item in batch]
        (length,) = {item.samples for item in batch}
        assert length == min(-(-max(own) // 32) * 32, 1000)
        padding += sum(length - one for one in own)
    as_they_come = sum(
        max(own) * len(own) - sum(own)
        for own in ([int(samples[i]) for i in batch] for batch in Shuffled(100, 7, 1).batches(10))
    )
    assert padding < as_they_come / 10
    # Neither in the order of length nor in that of the recordings.
    lengths = [batch[0].samples for batch in batches]
    assert lengths != sorted(lengths)
    full = [item.number for batch in batches for item in batch if samples[item.number] == 1000]
    assert full != sorted(full)


def test_buckets_are_the_same_for_all_ranks_and_fresh_each_epoch() -> None:
    samples = np.random.default_rng(0).integers(10, 1000, 90)
    alone = list(Slices(Bucketed(samples, 7, 1), 9))
    ranks = [Slices(Bucketed(samples, 7, 1, rank, 2), 9) for rank in range(2)]
    for batch, one, other in zip(alone, *ranks, strict=True):
        assert [*one, *other] == batch
    assert list(Slices(Bucketed(samples, 7, 2), 9)) != alone


def test_a_rank_is_one_of_the_world() -> None:
    with pytest.raises(TrainerError, match="rank must be 0 to 1, not 2"):
        Shuffled(10, 1, 1, rank=2, world=2)

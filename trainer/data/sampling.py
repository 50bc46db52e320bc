"""The order of segments in an epoch, and the part of it that each rank reads.

There is one order for all ranks, decided by the seed and the epoch. It is cut into global
batches, and of every one each rank takes its slice; so a step learns from the same segments
on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from trainer.errors import TrainerError

POOL_BATCHES = 64
"""Batches among which segments of like length are brought together."""


class Wanted(NamedTuple):
    """A segment to read, and how much of it."""

    number: int
    samples: int
    """At the rate of the data set."""


class Shuffled(Sampler[int]):
    """A fresh order per epoch, decided by the seed and the epoch alone.

    Parameters
    ----------
    length
        Number of segments.
    seed, epoch
        Decide the order.
    rank, world
        Which of how many processes reads; the order is the same for all, and the loader
        gives each its slice of every batch.
    """

    def __init__(self, length: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise TrainerError(f"rank must be 0 to {world - 1}, not {rank}")
        self.length, self.seed, self.epoch = length, seed, epoch
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self._order().tolist())

    def batches(self, size: int) -> Iterator[list[int]] | Iterator[list[Wanted]]:
        """Yield the global batches of ``size``; a rest that does not fill one is left out."""
        order = self._order()
        for at in range(0, self.length - size + 1, size):
            yield order[at : at + size].tolist()

    def _order(self) -> npt.NDArray[np.int32]:
        numbers = np.arange(self.length, dtype=np.int32)
        np.random.default_rng((self.seed, self.epoch)).shuffle(numbers)
        return numbers


class Bucketed(Shuffled):
    """A shuffled order in which short segments share batches, which are then short as well.

    A segment is as long as its stage says unless its recording is shorter; then the rest is
    padding. Here such segments come together, and a batch is cut to the longest in it. Where
    every recording is longer than a segment, this is `Shuffled`.

    Parameters
    ----------
    samples
        What each segment has without its padding.
    seed, epoch, rank, world
        As for `Shuffled`.
    multiple
        Batches are a multiple of so many samples long: a codec's frame, so that cutting one
        leaves no padding that the codec would add again.
    longest
        Samples in a segment; no batch is longer. None for the longest of ``samples``.
    """

    def __init__(
        self,
        samples: npt.NDArray[np.int64],
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        multiple: int = 1,
        longest: int | None = None,
    ) -> None:
        super().__init__(len(samples), seed, epoch, rank, world)
        self.samples, self.multiple, self.longest = samples, multiple, longest

    def batches(self, size: int) -> Iterator[list[Wanted]]:
        """Yield the global batches of ``size``, each of segments of like length."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(self.length)
        pool = size * POOL_BATCHES
        # Stable, so that segments of one length, such as the full one, stay shuffled.
        pools = (order[at : at + pool] for at in range(0, self.length, pool))
        order = np.concatenate(
            [part[np.argsort(self.samples[part], kind="stable")] for part in pools]
        )
        for at in random.permutation(self.length // size):
            yield self._cut(order[at * size : (at + 1) * size].tolist())

    def _cut(self, batch: list[int]) -> list[Wanted]:
        longest = int(self.samples[batch].max())
        rounded = -(-longest // self.multiple) * self.multiple
        samples = min(rounded, self.longest or int(self.samples.max()))
        return [Wanted(index, samples) for index in batch]


class InOrder(Shuffled):
    """Segments as they are numbered, none left out: for validation."""

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(length, 0, 0, rank, world)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield the global batches; the last one may be smaller."""
        for at in range(0, self.length, size):
            yield list(range(at, min(at + size, self.length)))

    def _order(self) -> npt.NDArray[np.int32]:
        return np.arange(self.length, dtype=np.int32)


class Slices:
    """A rank's slice of every global batch of an order, those ``done`` left out.

    An iterable of lists of indices.

    Slices of a batch differ by one segment at most. Each has one at least, but for the last
    batch of an `InOrder`, in which ranks may have none and then have a batch less.

    Attributes
    ----------
    size
        Segments in a global batch.
    first
        The place in it of the first segment of this rank.

    Raises
    ------
    TrainerError
        When a batch has fewer segments than there are ranks.
    """

    def __init__(self, order: Shuffled, size: int, done: int = 0) -> None:
        self.order, self.done = order, done
        self.size = max(1, min(size, len(order)))
        self.first = self.size * order.rank // order.world
        if self.size < order.world and not isinstance(order, InOrder):
            raise TrainerError(
                f"a batch of {self.size} segments cannot be shared by {order.world} processes: "
                f"each needs one (batch_size {size}, {len(order)} segments)"
            )
        if isinstance(order, InOrder):
            full, rest = divmod(len(order), self.size)
            whole, part = (bool(self._slice(list(range(count)))) for count in (self.size, rest))
            self._length = full * whole + part
        else:
            self._length = len(order) // self.size if len(order) else 0

    def __len__(self) -> int:
        return max(0, self._length - self.done)

    def __iter__(self) -> Iterator[list[int] | list[Wanted]]:
        left_out = self.done
        for batch in self.order.batches(self.size):
            if left_out:
                left_out -= 1
                continue
            if mine := self._slice(batch):
                yield mine

    def _slice(self, batch: list[int] | list[Wanted]) -> list[int] | list[Wanted]:
        rank, world = self.order.rank, self.order.world
        return batch[len(batch) * rank // world : len(batch) * (rank + 1) // world]

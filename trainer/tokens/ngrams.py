"""The most frequent n-grams of a stream that is too long to count all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]

CAPACITY = 2**20
BUFFER = 2**20


class Ngram(NamedTuple):
    """One n-gram and how often it came, at least."""

    tokens: tuple[int, ...]
    times: int


class FrequentNgrams:
    """Counts of the n-grams of a token stream, in bounded memory.

    Misra and Gries, "Finding repeated elements", 1982, in the mergeable form of Agarwal et
    al., "Mergeable Summaries", 2012: whenever there are more than ``capacity`` kinds, the
    count of the first that is one too many is taken off all, and what falls to 0 is dropped.
    So every count is right or too low, by at most ``missed``, which is at most the number of
    n-grams seen over ``capacity + 1``: any n-gram more frequent than that is here. While
    ``missed`` is 0, all counts are exact.

    Holds ``capacity`` kinds and 2**20 n-grams that wait to be counted: 24 MiB, and a few times
    as much while it merges.

    Parameters
    ----------
    n
        Tokens in an n-gram.
    radix
        Tokens run from 0 to ``radix - 1``; ``radix ** n`` must fit 63 bits.
    capacity
        Kinds that are remembered.
    """

    def __init__(self, n: int, radix: int, capacity: int = CAPACITY) -> None:
        if radix**n >= 2**63:
            raise ValueError(f"{n}-grams of {radix} tokens do not fit 63 bits")
        self.n, self.radix, self.capacity = n, radix, capacity
        self.total = 0
        """N-grams seen."""
        self.missed = 0
        """By how much a count may be too low, and how frequent an n-gram may be and be absent."""
        self._keys: Keys = np.zeros(0, np.int64)
        self._counts: Keys = np.zeros(0, np.int64)
        self._waiting: list[Keys] = []
        self._held = 0

    def add(self, tokens: Keys, lengths: Keys) -> None:
        """Count the n-grams within each of several sequences.

        Parameters
        ----------
        tokens
            The sequences one after the other.
        lengths
            Of each; an n-gram lies in one sequence, not across two.
        """
        count = len(tokens) - self.n + 1
        if count <= 0:
            return
        keys = np.zeros(count, np.int64)
        for place in range(self.n):
            keys = keys * self.radix + tokens[place : place + count]
        owner = np.repeat(np.arange(len(lengths)), lengths)
        keys = keys[owner[:count] == owner[self.n - 1 :]]
        self.total += len(keys)
        for start in range(0, len(keys), BUFFER):
            part = keys[start : start + BUFFER]
            self._waiting.append(part)
            self._held += len(part)
            if self._held >= BUFFER:
                self._merge()

    def _merge(self) -> None:
        if not self._held:
            return
        keys, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting, self._held = [], 0
        keys = np.concatenate([self._keys, keys])
        counts = np.concatenate([self._counts, counts])
        self._keys, place = np.unique(keys, return_inverse=True)
        self._counts = np.zeros(len(self._keys), np.int64)
        np.add.at(self._counts, place, counts)
        if len(self._keys) > self.capacity:
            # The largest of the counts that are too many.
            cut = int(np.partition(self._counts, -self.capacity - 1)[-self.capacity - 1])
            stay = self._counts > cut
            self._keys, self._counts = self._keys[stay], self._counts[stay] - cut
            self.missed += cut

    @property
    def kinds(self) -> int | None:
        """Different n-grams seen; None when some were dropped."""
        self._merge()
        return None if self.missed else len(self._keys)

    def top(self, count: int) -> list[Ngram]:
        """Return the most frequent n-grams, the more frequent first, then by their tokens."""
        self._merge()
        best = np.lexsort((self._keys, -self._counts))[:count]
        found = []
        for key, times in zip(self._keys[best].tolist(), self._counts[best].tolist(), strict=True):
            tokens = []
            for _ in range(self.n):
                key, token = divmod(key, self.radix)
                tokens.append(token)
            found.append(Ngram(tuple(reversed(tokens)), times))
        return found

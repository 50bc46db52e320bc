"""Incremental work: long work in pieces, whose thread can do something else between two of them.

Such work is a generator that yields nothing, between pieces of some milliseconds, and returns its
result. Whoever stops asking for the next piece has ended it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Incremental: TypeAlias = Generator[None, None, T]


def run_to_end(work: Incremental[T]) -> T:
    """Do all of ``work`` and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result

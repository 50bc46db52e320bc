"""Limits guessing of keys: wrong keys per minute and address."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import limits
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from service.errors import RateLimitError, UnauthorizedError

_RETRY_SECONDS = 60.0
_MOST_KNOWN = 4096


class KeyGuesses:
    """Wrong keys by address.

    An address that has sent too many is refused before its key is looked at, unless it has sent
    the same key before and was right: others behind the same address go on.

    Parameters
    ----------
    most
        Wrong keys a minute.
    """

    def __init__(self, most: int) -> None:
        self._counter = FixedWindowRateLimiter(MemoryStorage())
        self._limit = limits.RateLimitItemPerMinute(most, namespace="guesses")
        self._right: OrderedDict[bytes, None] = OrderedDict()

    def check(self, address: str, given: str | None, look: Callable[[], str]) -> str:
        """Return what ``look`` does with a key that ``address`` has given.

        Raises
        ------
        RateLimitError
            If too many wrong ones have come from there.
        UnauthorizedError
            If ``look`` does, which counts where a key was given.
        """
        if given is None:
            return look()
        known = hashlib.sha256(f"{address}\0{given}".encode()).digest()
        if known not in self._right and not self._counter.test(self._limit, address):
            raise RateLimitError(
                f"{self._limit.amount} wrong keys came from {address} within a minute",
                retry_after=_RETRY_SECONDS,
            )
        try:
            name = look()
        except UnauthorizedError:
            self._right.pop(known, None)
            self._counter.hit(self._limit, address)
            raise
        self._right[known] = None
        self._right.move_to_end(known)
        if len(self._right) > _MOST_KNOWN:
            self._right.popitem(last=False)
        return name

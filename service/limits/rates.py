"""Rate limits per caller: requests, and seconds of audio."""

from __future__ import annotations

import math
import time

import limits
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.errors import (
    RateLimitError,
    TooLargeError,
)
from service.settings import Settings

_MS = 1000


class RateLimits:
    """Usage per caller over a sliding window of one minute, in this process."""

    def __init__(self, settings: Settings) -> None:
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._requests = _per_minute(settings.rate_limit_requests, "requests")
        audio = settings.rate_limit_audio
        self._audio = _per_minute(None if audio is None else audio * _MS, "audio")
        self.audio_share = math.inf if audio is None else audio

    def count_request(self, caller: str) -> None:
        """Count a request of ``caller``; raises RateLimitError if that exceeds the limit."""
        if self._requests is not None:
            self._count(self._requests, caller, 1, "requests")

    def check_audio(self, caller: str, seconds: float = 1 / _MS) -> None:
        """Raise what `count_audio` would raise now, for work that comes before the engine's."""
        item = self._for_audio(seconds)
        if item is not None and not self._counter.test(item, caller, cost=_cost(seconds)):
            raise self._exceeded(item, caller, _cost(seconds), "audio-milliseconds")

    def count_audio(self, caller: str, seconds: float) -> None:
        """Count audio of ``caller``.

        Raises
        ------
        RateLimitError
            If it exceeds the limit now.
        TooLargeError
            If it exceeds the limit of a whole minute, and so can never fit.
        """
        item = self._for_audio(seconds)
        if item is not None:
            self._count(item, caller, _cost(seconds), "audio-milliseconds")

    def _for_audio(self, seconds: float) -> limits.RateLimitItem | None:
        if self._audio is not None and seconds > self.audio_share:
            raise TooLargeError(
                f"{seconds:.1f} s of audio; {self.audio_share:g} s a minute are what one caller has"
            )
        return self._audio

    def _count(self, item: limits.RateLimitItem, caller: str, cost: int, what: str) -> None:
        if not self._counter.hit(item, caller, cost=cost):
            raise self._exceeded(item, caller, cost, what)

    def _exceeded(
        self, item: limits.RateLimitItem, caller: str, cost: int, what: str
    ) -> RateLimitError:
        stats = self._counter.get_window_stats(item, caller)
        return RateLimitError(
            f"{cost} more {what} would pass the limit of {item.amount} a minute",
            retry_after=stats.reset_time - time.time(),
        )


def _cost(seconds: float) -> int:
    return math.ceil(seconds * _MS)


def _per_minute(amount: float | None, name: str) -> limits.RateLimitItem | None:
    return (
        None if amount is None else limits.RateLimitItemPerMinute(math.ceil(amount), namespace=name)
    )

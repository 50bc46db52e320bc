"""How much may be sent: bytes of a body, entries of a batch, depth of JSON, and each minute."""

from __future__ import annotations

import math
import time

import limits
import numpy as np
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    InvalidRequestError,
    MalformedBodyError,
    RateLimitError,
    TooLargeError,
)
from service.settings import Settings

MAX_LISTS = 200_000
"""Lists and objects in one body: codes have a handful, and text has none."""

_MS = 1000
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class BodyLimit:
    """Refuse a request whose body grows past ``max_bytes``, counted as it arrives.

    A ``Content-Length`` over the limit is refused at once; a smaller one is not believed.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        received = 0

        async def counted() -> Message:
            nonlocal received
            if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.max_bytes):
                raise self._error(f"{declared:.20} bytes are announced")
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._error(f"{received} bytes have come so far")
            return message

        await self.app(scope, counted, send)

    def _error(self, what: str) -> TooLargeError:
        return TooLargeError(f"{what}; the body may have at most {self.max_bytes}")


class RateLimits:
    """What each caller has had in the last minute: a window that slides, in this process."""

    def __init__(self, settings: Settings) -> None:
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._requests = _per_minute(settings.rate_limit_requests, "requests")
        audio = settings.rate_limit_audio
        self._audio = _per_minute(None if audio is None else audio * _MS, "audio")
        self.audio_share = math.inf if audio is None else audio

    def count_request(self, caller: str) -> None:
        """Count a request of ``caller``; raises RateLimitError if it is one too many."""
        if self._requests is not None:
            self._count(self._requests, caller, 1, "requests")

    def count_audio(self, caller: str, seconds: float) -> None:
        """Count audio of ``caller``.

        Raises
        ------
        RateLimitError
            If it is too much now.
        TooLargeError
            If it is more than a minute's share, and so will always be too much.
        """
        if self._audio is None:
            return
        if seconds > self.audio_share:
            raise TooLargeError(
                f"{seconds:.1f} s of audio; {self.audio_share:g} s a minute are what one caller has"
            )
        self._count(self._audio, caller, math.ceil(seconds * _MS), "audio-milliseconds")

    def _count(self, item: limits.RateLimitItem, caller: str, cost: int, what: str) -> None:
        if not self._counter.hit(item, caller, cost=cost):
            stats = self._counter.get_window_stats(item, caller)
            raise RateLimitError(
                f"{cost} more {what} would pass the limit of {item.amount} a minute",
                retry_after=stats.reset_time - time.time(),
            )


def _per_minute(amount: float | None, name: str) -> limits.RateLimitItem | None:
    return (
        None if amount is None else limits.RateLimitItemPerMinute(math.ceil(amount), namespace=name)
    )


def check_count(count: int, limit: int, what: str) -> None:
    """Check that a batch has at least one of ``what`` and not too many.

    Raises
    ------
    InvalidRequestError
        If there is none.
    TooLargeError
        If there are more than ``limit``.
    """
    if count == 0:
        raise InvalidRequestError(f"the batch has no {what}")
    if count > limit:
        raise TooLargeError(f"the batch has {count} {what}, and may have at most {limit}")


def check_nesting(data: bytes, max_depth: int) -> None:
    """Check how deep and how many the lists and objects of JSON text are, before it is parsed.

    Brackets in strings count too: nothing that a client has to say here holds any.

    Raises
    ------
    MalformedBodyError
        Saying the limit.
    """
    brackets = data.translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * MAX_LISTS:
        raise MalformedBodyError(f"the JSON has more than {MAX_LISTS} lists and objects")
    marks = np.frombuffer(brackets, np.uint8)
    depths = np.cumsum(np.where((marks == ord("[")) | (marks == ord("{")), 1, -1))
    if depths.size and int(depths.max()) > max_depth:
        raise MalformedBodyError(f"the JSON is nested too deeply: at most {max_depth} levels")

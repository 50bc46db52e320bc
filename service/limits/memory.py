"""A budget for the memory of request bodies and of responses that clients have not received."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import OverloadedError, TooLargeError
from service.observability.metrics import Metrics
from service.problems import problem_response
from service.shares import Shares

SMALL_BYTES = 2**16
"""Responses up to this size are not counted: a connection buffers them at once, and probes and
problems must always be possible."""


class MemoryBudget:
    """Bytes that all requests of one app may hold together; threads may take some at once.

    Parameters
    ----------
    max_bytes
        Upper bound.
    metrics
        Receives the bytes in use.
    caller_share
        Part of it that one caller's requests may have; see `service.shares`.
    """

    def __init__(self, max_bytes: int, metrics: Metrics, caller_share: float = 1.0) -> None:
        self.max_bytes, self.lock = max_bytes, threading.Lock()
        self.shares = Shares(max_bytes, caller_share)
        metrics.held_bytes.set_function(lambda: self.used)

    @property
    def used(self) -> int:
        """Bytes in use."""
        return int(self.shares.used)


class Reservation:
    """Memory reserved for one request: its body and intermediate results, then its response.

    Parameters
    ----------
    budget
        Where from.
    caller
        Whose it is; one request of a caller that has no other may have all that is free.
    """

    def __init__(self, budget: MemoryBudget, caller: str = "") -> None:
        self._budget, self.size, self._caller = budget, 0, caller
        self._closed = False

    def resize(self, size: int) -> None:
        """Reserve ``size`` bytes in place of the current reservation.

        Raises
        ------
        OverloadedError
            If they do not fit now; the reservation is unchanged.
        TooLargeError
            If they exceed the whole budget.
        """
        with self._budget.lock:
            self._resize(0 if self._closed else size)

    def _resize(self, size: int) -> None:
        budget, more = self._budget, size - self.size
        shares, most = budget.shares, budget.max_bytes
        if more > 0 and size > most:
            raise TooLargeError(
                f"this needs {size} bytes; requests and answers may hold {most} together"
            )
        if more > 0 and shares.used + more > most:
            raise OverloadedError(
                f"requests and answers hold {budget.used} bytes, of at most {most}, and this "
                f"needs {more}",
                retry_after=1.0,
            )
        alone = shares.of(self._caller) <= self.size
        if more > 0 and not alone and not shares.allows(self._caller, more):
            raise OverloadedError(
                f"requests and answers of this caller hold {shares.of(self._caller):.0f} bytes, "
                f"its share of {most}, and this needs {more}",
                retry_after=1.0,
            )
        shares.take(self._caller, more)
        self.size = size

    def belongs_to(self, caller: str) -> None:
        """Count it for ``caller`` from now on."""
        with self._budget.lock:
            self._budget.shares.take(self._caller, -self.size)
            self._budget.shares.take(caller, self.size)
            self._caller = caller

    def close(self) -> None:
        """Release everything; later reservations by threads still running are ignored."""
        with self._budget.lock:
            self._closed = True
            self._resize(0)

    def grow(self, more: int) -> None:
        """Reserve ``more`` bytes in addition, or release some if negative; raises as `resize`."""
        with self._budget.lock:
            if not self._closed:
                self._resize(self.size + more)

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserve memory for the block, released if it fails; raises as `resize`."""
        self.grow(size)
        try:
            yield
        except BaseException:
            self.grow(-size)
            raise


def reservation_of(scope: Scope) -> Reservation:
    """Return the memory reserved for the request with this ASGI scope."""
    reservation: Reservation = scope["state"]["reservation"]
    return reservation


class MemoryLimit:
    """Count the memory of each request: 429 if it does not fit now, 413 if it can never fit.

    A request first reserves its body as it arrives; handlers add what they make
    (`reservation_of`). A response of known length then replaces both until the client
    has received it. A streamed response is never held as a whole.
    """

    def __init__(self, app: ASGIApp, budget: MemoryBudget) -> None:
        self.app = app
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = scope.get("client")
        reservation = Reservation(self.budget, client[0] if client else "")
        scope.setdefault("state", {})["reservation"] = reservation
        size, refused = 0, False

        async def counted() -> Message:
            message = await receive()
            reservation.grow(len(message.get("body", b"")))
            return message

        async def until_taken(message: Message) -> None:
            nonlocal size, refused
            if refused:
                return
            if message["type"] == "http.response.start":
                size = int(Headers(raw=message["headers"]).get("content-length", 0))
                if size > SMALL_BYTES:
                    try:
                        reservation.resize(size)
                    except (OverloadedError, TooLargeError) as error:
                        refused = True
                        await problem_response(Request(scope), error)(scope, receive, send)
                        return
            elif size > SMALL_BYTES and not message.get("more_body"):
                # The server accepts a message once the previous one is nearly sent. So an empty
                # last message returns when the client has received nearly everything.
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.app(scope, counted, until_taken)
        finally:
            reservation.close()

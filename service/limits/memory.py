"""A budget for the memory of request bodies and of responses that clients have not received."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import OverloadedError, TooLargeError
from service.observability.metrics import Metrics
from service.problems import problem_response

SMALL_BYTES = 2**16
"""Responses up to this size are not counted: a connection buffers them at once, and probes and
problems must always be possible."""


class MemoryBudget:
    """Bytes that all requests of one app may hold together.

    Parameters
    ----------
    max_bytes
        Upper bound.
    metrics
        Receives the bytes in use.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self.max_bytes, self.used = max_bytes, 0
        metrics.held_bytes.set_function(lambda: self.used)


class Reservation:
    """Memory reserved for one request: its body and intermediate results, then its response."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self.size = budget, 0

    def resize(self, size: int) -> None:
        """Reserve ``size`` bytes in place of the current reservation.

        Raises
        ------
        OverloadedError
            If they do not fit now; the reservation is unchanged.
        TooLargeError
            If they exceed the whole budget.
        """
        budget, more = self._budget, size - self.size
        most = budget.max_bytes
        if more > 0 and size > most:
            raise TooLargeError(
                f"this needs {size} bytes; requests and answers may hold {most} together"
            )
        if more > 0 and budget.used + more > most:
            raise OverloadedError(
                f"requests and answers hold {budget.used} bytes, of at most {most}, and this "
                f"needs {more}",
                retry_after=1.0,
            )
        budget.used += more
        self.size = size

    def grow(self, more: int) -> None:
        """Reserve ``more`` bytes in addition, or release some if negative; raises as `resize`."""
        self.resize(self.size + more)

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
        reservation = Reservation(self.budget)
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
            reservation.resize(0)

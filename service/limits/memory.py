"""Memory that clients hold by being slow: bodies as they come, answers until they are taken."""

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
"""Answers up to here are not counted: a connection takes them at once, and must always be able
to, for probes and for problems."""


class MemoryBudget:
    """How many bytes the requests of one app hold together.

    Parameters
    ----------
    max_bytes
        Bytes that there may be.
    metrics
        Told how many there are.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self.max_bytes, self.used = max_bytes, 0
        metrics.held_bytes.set_function(lambda: self.used)


class Reservation:
    """What one request holds: its body, room for what is made of that, then its answer."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self.size = budget, 0

    def resize(self, size: int) -> None:
        """Hold ``size`` bytes from now on.

        Raises
        ------
        OverloadedError
            If that would be too many. It holds what it held then.
        TooLargeError
            If it would be too many with nobody else there.
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
        """Hold ``more`` bytes, or fewer if it is negative; raises what `resize` does."""
        self.resize(self.size + more)

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Keep room for what the block makes, and when it fails give it up; raises as `resize`."""
        self.grow(size)
        try:
            yield
        except BaseException:
            self.grow(-size)
            raise


class MemoryLimit:
    """Count the memory of each request: 429 if it does not fit now, 413 if it can never fit.

    A request first reserves its body as it arrives; handlers add what they make to
    ``request.state.reservation``. A response of known length then replaces both until the client
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
                # The server waits with a message until the one before has nearly left. So the
                # end comes by itself, and this goes on when the client has the rest.
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.app(scope, counted, until_taken)
        finally:
            reservation.resize(0)

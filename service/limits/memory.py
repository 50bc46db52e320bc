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


class Held:
    """How many bytes the requests of one app hold together.

    Parameters
    ----------
    most
        Bytes that there may be.
    metrics
        Told how many there are.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        self.most, self.now = most, 0
        metrics.held_bytes.set_function(lambda: self.now)


class Holding:
    """What one request holds: its body, room for what is made of that, then its answer."""

    def __init__(self, held: Held) -> None:
        self._held, self.size = held, 0

    def resize(self, size: int) -> None:
        """Hold ``size`` bytes from now on.

        Raises
        ------
        OverloadedError
            If that would be too many. It holds what it held then.
        TooLargeError
            If it would be too many with nobody else there.
        """
        held, more = self._held, size - self.size
        if more > 0 and size > held.most:
            raise TooLargeError(
                f"this needs {size} bytes; requests and answers may hold {held.most} together"
            )
        if more > 0 and held.now + more > held.most:
            raise OverloadedError(
                f"requests and answers hold {held.now} bytes, of at most {held.most}, and this "
                f"needs {more}",
                retry_after=1.0,
            )
        held.now += more
        self.size = size

    def grow(self, more: int) -> None:
        """Hold ``more`` bytes, or fewer if it is negative; raises what `resize` does."""
        self.resize(self.size + more)

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Keep room for what the block makes, and when it fails give it up; raises as `resize`."""
        self.grow(size)
        try:
            yield
        except BaseException:
            self.grow(-size)
            raise


class HeldLimit:
    """Count what each request holds; answer 429 for what is too much now, 413 for what always is.

    First that is its body, as far as it has come; handlers add to ``request.state.holding`` what
    they make. An answer of a known length takes the place of all that, until the client has taken
    it. One that is sent as it is made never waits as a whole.
    """

    def __init__(self, app: ASGIApp, held: Held) -> None:
        self.app = app
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        holding = Holding(self.held)
        scope.setdefault("state", {})["holding"] = holding
        size, refused = 0, False

        async def counted() -> Message:
            message = await receive()
            holding.grow(len(message.get("body", b"")))
            return message

        async def until_taken(message: Message) -> None:
            nonlocal size, refused
            if refused:
                return
            if message["type"] == "http.response.start":
                size = int(Headers(raw=message["headers"]).get("content-length", 0))
                if size > SMALL_BYTES:
                    try:
                        holding.resize(size)
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
            holding.resize(0)

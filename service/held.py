"""Memory that clients hold by being slow: bodies as they come, answers until they are taken."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import OverloadedError, TooLargeError, problem_response
from service.metrics import Metrics

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

    def check(self, more: int, own: int = 0) -> None:
        """Raise what `add` would raise; what is let in by it is counted only once it is there."""
        if own + more > self.most:
            raise TooLargeError(
                f"this needs {own + more} bytes; requests and answers may hold {self.most} together"
            )
        if self.now + more > self.most:
            raise OverloadedError(
                f"requests and answers hold {self.now} bytes, of at most {self.most}, and this "
                f"needs {more}",
                retry_after=1.0,
            )

    def add(self, more: int, own: int = 0) -> None:
        """Count ``more`` bytes, or as many fewer, of a request that holds ``own``.

        Raises
        ------
        OverloadedError
            If that would be too many. Nothing is counted then.
        TooLargeError
            If it would be too many with nobody else there.
        """
        if more > 0:
            self.check(more, own)
        self.now += more


class HeldLimit:
    """Count what each request holds; answer 429 for what is too much now, 413 for what always is.

    First that is its body, as far as it has come. An answer of a known length takes the body's
    place, until the client has taken it. One that is sent as it is made never waits as a whole.
    """

    def __init__(self, app: ASGIApp, held: Held) -> None:
        self.app = app
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held = size = 0
        refused = False

        async def counted() -> Message:
            nonlocal held
            message = await receive()
            more = len(message.get("body", b""))
            self.held.add(more, held)
            held += more
            return message

        async def until_taken(message: Message) -> None:
            nonlocal held, size, refused
            if refused:
                return
            if message["type"] == "http.response.start":
                size = int(Headers(raw=message["headers"]).get("content-length", 0))
                if size > SMALL_BYTES:
                    try:
                        self.held.add(size - held, held)
                    except (OverloadedError, TooLargeError) as error:
                        refused = True
                        await problem_response(Request(scope), error)(scope, receive, send)
                        return
                    held = size
            elif size > SMALL_BYTES and not message.get("more_body"):
                # The server waits with a message until the one before has nearly left. So the
                # end comes by itself, and this goes on when the client has the rest.
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.app(scope, counted, until_taken)
        finally:
            self.held.add(-held)

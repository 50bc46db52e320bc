"""Timeouts for request bodies that arrive slowly."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import SlowClientError


class BodyTimeoutMiddleware:
    """Refuse a body that pauses for ``timeout`` seconds or arrives below a minimum rate.

    Parameters
    ----------
    timeout
        Seconds between two chunks; also the time before ``min_rate`` applies.
    min_rate
        Bytes per second, on average since the first read of the body.
    """

    def __init__(self, app: ASGIApp, timeout: float, min_rate: float) -> None:
        self.app = app
        self.timeout = timeout
        self.min_rate = min_rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = 0.0
        received = 0
        complete = False

        async def timely() -> Message:
            nonlocal began, received, complete
            if complete:
                return await receive()  # after the body, only http.disconnect can follow
            began = began or time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), self.timeout)
            except TimeoutError:
                raise SlowClientError(f"nothing of the body came for {self.timeout:g} s") from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            seconds = time.monotonic() - began
            if not complete and seconds > self.timeout and received < self.min_rate * seconds:
                raise SlowClientError(
                    f"{received} bytes of the body came in {seconds:.0f} s; it must keep up "
                    f"{self.min_rate:g} a second"
                )
            return message

        await self.app(scope, timely, send)

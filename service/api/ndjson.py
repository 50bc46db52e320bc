"""A batch's items, one line of JSON each, sent as they are finished."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.content_negotiation import NDJSON
from service.concurrency import run_until_first_complete, wait_for_disconnect
from service.errors import DisconnectedError
from service.limits.memory import Reservation
from service.problems import problem_type


@dataclasses.dataclass(frozen=True)
class NdjsonItem:
    """One item as JSON; its request holds ``held`` bytes of it until it is taken."""

    data: bytes
    held: int = 0


Item: TypeAlias = Coroutine[Any, Any, NdjsonItem]


class NdjsonResponse(Response):
    """The answer of a batch whose items are worked on while it is being taken.

    A client that leaves takes the rest of its items with it.
    """

    def __init__(self, request: Request, items: Callable[[], list[Item]]) -> None:
        super().__init__(None, 200, None, NDJSON)
        del self.headers["Content-Length"]
        self._request, self._items = request, items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI calls it."""
        items = {asyncio.ensure_future(item) for item in self._items()}
        try:
            await run_until_first_complete(self._send(send, items), wait_for_disconnect(receive))
        except DisconnectedError as error:
            self._request.state.outcome = problem_type(error).name
        finally:
            for item in items:
                item.cancel()
            await asyncio.gather(*items, return_exceptions=True)

    async def _send(self, send: Send, items: set[asyncio.Task[NdjsonItem]]) -> None:
        """Send all items as they are finished; none is kept once it is taken."""
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        while items:
            done, _ = await asyncio.wait(items, return_when=asyncio.FIRST_COMPLETED)
            items -= done
            while done:
                await self._send_line(send, done.pop().result())
        await send({"type": "http.response.body", "body": b""})

    async def _send_line(self, send: Send, line: NdjsonItem) -> None:
        body = {"body": line.data + b"\n", "more_body": True}
        await send({"type": "http.response.body", **body})
        reservation: Reservation = self._request.state.reservation
        reservation.grow(-line.held)

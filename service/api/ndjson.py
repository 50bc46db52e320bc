"""NDJSON responses: the items of a batch, one line of JSON each, sent as they finish."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.content_negotiation import NDJSON
from service.api.requests import Call
from service.concurrency import run_until_first_complete, wait_for_disconnect
from service.errors import DisconnectedError
from service.problems import problem_type


@dataclasses.dataclass(frozen=True)
class NdjsonItem:
    """One item as JSON; ``held`` bytes stay reserved until it is sent."""

    data: bytes
    held: int = 0


Item: TypeAlias = Coroutine[Any, Any, NdjsonItem]


class NdjsonResponse(Response):
    """A batch response that is sent while its items are computed.

    If the client disconnects, the remaining items are cancelled.
    """

    def __init__(self, call: Call, items: Callable[[], list[Item]]) -> None:
        super().__init__(None, 200, None, NDJSON)
        del self.headers["Content-Length"]
        self._call, self._items = call, items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        items = {asyncio.ensure_future(item) for item in self._items()}
        try:
            await run_until_first_complete(self._send(send, items), wait_for_disconnect(receive))
        except DisconnectedError as error:
            self._call.state.outcome = problem_type(error).name
        finally:
            for item in items:
                item.cancel()
            await asyncio.gather(*items, return_exceptions=True)

    async def _send(self, send: Send, items: set[asyncio.Task[NdjsonItem]]) -> None:
        """Send each item as it finishes; none is kept after it is sent."""
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
        self._call.reservation.grow(-line.held)

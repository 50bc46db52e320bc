"""Running coroutines until the first completes or the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn

from starlette.types import Receive

from service.errors import (
    DisconnectedError,
)


async def wait_for_disconnect(receive: Receive) -> NoReturn:
    """Wait until the client disconnects, then raise DisconnectedError."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise DisconnectedError("the client disconnected before the response was complete")


async def run_until_first_complete(*parts: Coroutine[Any, Any, None]) -> None:
    """Run ``parts`` until one completes; cancel the others and return or raise as it did."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

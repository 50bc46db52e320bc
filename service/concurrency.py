"""Run coroutines until the first of them is done, or the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn

from starlette.types import Receive

from service.errors import (
    DisconnectedError,
)


async def wait_for_disconnect(receive: Receive) -> NoReturn:
    """Wait until the client leaves, then raise DisconnectedError."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise DisconnectedError("the client went away before the end of its answer")


async def run_until_first_complete(*parts: Coroutine[Any, Any, None]) -> None:
    """Run ``parts`` until one ends, which decides how this ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

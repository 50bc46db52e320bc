"""Limits on request bodies: bytes, batch entries, and the depth of JSON."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    InvalidRequestError,
    MalformedBodyError,
    TooLargeError,
)

MAX_LISTS = 200_000
"""Lists and objects in one body: codes have a handful, and text has none."""

MAX_FIELDS = 64
"""Fields of one object: no message has as many, and a check of each takes time."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class BodyLimit:
    """Refuse a request whose body grows past ``max_bytes``, counted as it arrives.

    A ``Content-Length`` over the limit is refused at once; a smaller one is not believed.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        received = 0

        async def counted() -> Message:
            nonlocal received
            if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.max_bytes):
                raise self._error(f"{declared:.20} bytes are announced")
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._error(f"{received} bytes have come so far")
            return message

        await self.app(scope, counted, send)

    def _error(self, what: str) -> TooLargeError:
        return TooLargeError(f"{what}; the body may have at most {self.max_bytes}")


def check_count(count: int, limit: int, what: str) -> None:
    """Check that a batch has at least one of ``what`` and not too many.

    Raises
    ------
    InvalidRequestError
        If there is none.
    TooLargeError
        If there are more than ``limit``.
    """
    if count == 0:
        raise InvalidRequestError(f"the batch has no {what}")
    if count > limit:
        raise TooLargeError(f"the batch has {count} {what}, and may have at most {limit}")


def check_fields(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return an object of its fields; MalformedBodyError if they are more than `MAX_FIELDS`."""
    if len(pairs) > MAX_FIELDS:
        raise MalformedBodyError(f"an object has {len(pairs)} fields; at most {MAX_FIELDS} may be")
    return dict(pairs)


def check_names(fields: Iterable[object], known: Collection[str]) -> None:
    """Check an object's names before its values are looked at: a check of each takes time.

    Raises
    ------
    InvalidRequestError
        Naming the first few that are unknown.
    """
    unknown = [name for name in fields if name not in known]
    if unknown:
        errors = [{"place": f"{name!s:.64}", "reason": "unknown field"} for name in unknown[:5]]
        named = ", ".join(error["place"] for error in errors)
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise InvalidRequestError(f"unknown fields: {named}{more}", errors)


def check_nesting(data: bytes, max_depth: int) -> None:
    """Check how deep and how many the lists and objects of JSON text are, before it is parsed.

    Brackets in strings do not count.

    Raises
    ------
    MalformedBodyError
        Saying the limit.
    """
    brackets = _STRING.sub(b"", data).translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * MAX_LISTS:
        raise MalformedBodyError(f"the JSON has more than {MAX_LISTS} lists and objects")
    marks = np.frombuffer(brackets, np.uint8)
    depths = np.cumsum(np.where((marks == ord("[")) | (marks == ord("{")), 1, -1))
    if depths.size and int(depths.max()) > max_depth:
        raise MalformedBodyError(f"the JSON is nested too deeply: at most {max_depth} levels")

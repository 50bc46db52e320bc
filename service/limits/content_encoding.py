"""Compressed request bodies: ``Content-Encoding: gzip``, decoded as they come."""

from __future__ import annotations

import asyncio
import zlib

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import MalformedBodyError, TooLargeError, UnsupportedMediaError
from service.problems import problem_response

PIECE_BYTES = 2**16
"""Decoded bytes that are handed on at a time."""

_GZIP = ("gzip", "x-gzip")
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class ContentEncodingMiddleware:
    """Decode gzip, so that every limit that lies inside counts decoded bytes.

    Parameters
    ----------
    max_bytes
        Most bytes of a body before it is decoded: parts of gzip may be empty without end.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        encoding = ""
        if scope["type"] == "http":
            encoding = Headers(scope=scope).get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            await self.app(scope, receive, send)
        elif encoding in _GZIP:
            scope = {**scope, "headers": list(scope["headers"])}
            headers = MutableHeaders(scope=scope)
            # Both are of the bytes that were sent.
            del headers["content-encoding"]
            del headers["content-length"]
            await self.app(scope, GzipBody(receive, self.max_bytes), send)
        else:
            error = UnsupportedMediaError(
                f"bodies are read with Content-Encoding gzip or none, not {encoding!r:.50}",
                {"Accept-Encoding": "gzip"},
            )
            await problem_response(Request(scope), error)(scope, receive, send)


class GzipBody:
    """A ``receive`` that gives a compressed body decoded, a piece at a time."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)
        self._data = b""
        self._received = 0
        self._more = True
        self._ended = False

    async def __call__(self) -> Message:
        """Return the next piece (ASGI).

        Raises
        ------
        MalformedBodyError
            If the body is not gzip, or cut short.
        TooLargeError
            If more comes than a body may have, before it is decoded.
        """
        if self._ended:
            return await self._receive()
        while True:
            piece = self._decode()
            if piece:
                # Others have a turn: much may come of few bytes.
                await asyncio.sleep(0)
                return {"type": "http.request", "body": piece, "more_body": True}
            if not self._more:
                break
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._data += message.get("body", b"")
            self._received += len(message.get("body", b""))
            self._more = message.get("more_body", False)
            if self._received > self._max_bytes:
                raise TooLargeError(
                    f"{self._received} bytes have come so far; the body may have at most "
                    f"{self._max_bytes}"
                )
        if self._received and not self._decoder.eof:
            raise MalformedBodyError("the gzip body is cut short")
        self._ended = True
        return {"type": "http.request", "body": b"", "more_body": False}

    def _decode(self) -> bytes:
        """Return at most one piece of what has come; several members follow one another."""
        while self._data:
            if self._decoder.eof:
                self._decoder = zlib.decompressobj(_GZIP_WINDOW)
            try:
                piece = self._decoder.decompress(self._data, PIECE_BYTES)
            except zlib.error as error:
                raise MalformedBodyError(f"the body is not gzip: {error}") from None
            self._data = self._decoder.unconsumed_tail or self._decoder.unused_data
            if piece:
                return piece
        return b""

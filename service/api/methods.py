"""HEAD and OPTIONS for every route, and answers that HTTP/1.0 clients understand."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class MethodMiddleware:
    """Answer HEAD as GET without a body, OPTIONS with ``Allow``, and HTTP/1.0 with a length.

    RFC 9110 asks for HEAD wherever there is GET. The server leaves out the body of an answer to
    HEAD by itself. HTTP/1.0, which nginx speaks to its upstreams by default, has no chunked
    framing, so that an answer of unknown length is collected first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["http_version"] == "1.0":
            send = _whole(send)
        if scope["method"] == "HEAD":
            # A copy: the server decides by its own scope that no body is sent.
            scope = {**scope, "method": "GET"}
        elif scope["method"] == "OPTIONS":
            send = _allowed(send)
        await self.app(scope, receive, send)


def _allowed(send: Send) -> Send:
    """Return a ``send`` that turns a 405, which names the methods in ``Allow``, into a 204."""
    empty = False

    async def answer(message: Message) -> None:
        nonlocal empty
        if message["type"] == "http.response.start" and message["status"] == 405:
            empty = True
            headers = MutableHeaders(scope=message)
            allowed = {*headers.get("allow", "").split(", "), "OPTIONS"} - {""}
            allowed |= {"HEAD"} if "GET" in allowed else set()
            headers["Allow"] = ", ".join(sorted(allowed))
            del headers["content-type"]
            del headers["content-length"]
            message["status"] = 204
        elif message["type"] == "http.response.body" and empty:
            message = {**message, "body": b""}
        await send(message)

    return answer


def _whole(send: Send) -> Send:
    """Return a ``send`` that gives an answer of unknown length its ``Content-Length``."""
    held: list[Message] = []

    async def answer(message: Message) -> None:
        known = "content-length" in Headers(raw=message.get("headers", []))
        if not held and (message["type"] != "http.response.start" or known):
            await send(message)
            return
        held.append(message)
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return
        start, body = held[0], b"".join(part.get("body", b"") for part in held[1:])
        held.clear()
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return answer

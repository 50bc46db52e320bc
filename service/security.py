"""Who may call, and how much they may send."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    ForbiddenError,
    InvalidRequestError,
    TooLargeError,
    UnauthorizedError,
)
from service.settings import Settings

_header = APIKeyHeader(name="X-Api-Key", auto_error=False, description="SNAC_API_KEY, if set.")
_admin_header = APIKeyHeader(
    name="X-Admin-Key", auto_error=False, description="SNAC_ADMIN_KEY, if set."
)


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


def _check(given: str | None, key: SecretStr, header: str) -> None:
    if given is None:
        raise UnauthorizedError(
            f"send the key in the {header} header", {"WWW-Authenticate": "ApiKey"}
        )
    if not hmac.compare_digest(given.encode(), key.get_secret_value().encode()):
        raise UnauthorizedError(
            f"the key in the {header} header is wrong", {"WWW-Authenticate": "ApiKey"}
        )


def require_key(request: Request, given: Annotated[str | None, Depends(_header)]) -> None:
    """Let a call through if no key is set, or the right one was sent."""
    settings: Settings = request.app.state.service.settings
    if settings.api_key is not None:
        _check(given, settings.api_key, "X-Api-Key")


def require_admin_key(
    request: Request, given: Annotated[str | None, Depends(_admin_header)]
) -> None:
    """Let an operator's call through: with the admin key, or without one on loopback.

    A browser sends ``Origin``; without a key, a page of another site must not be able to
    make the operator's own browser call this.
    """
    settings: Settings = request.app.state.service.settings
    if settings.admin_key is not None:
        _check(given, settings.admin_key, "X-Admin-Key")
    elif not settings.on_loopback:
        raise ForbiddenError(
            "SNAC_ADMIN_KEY is not set, so this call is open on a loopback address only"
        )
    elif "origin" in request.headers:
        raise ForbiddenError("set SNAC_ADMIN_KEY to make this call from a browser")


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

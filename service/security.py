"""Who may call: keys for everybody, keys for operators, and headers that keep browsers careful."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.cors import CORSMiddleware

from service import keys
from service.errors import ForbiddenError, UnauthorizedError
from service.keys import Key
from service.request_state import RequestState
from service.settings import Settings

ANONYMOUS = "anonymous"
"""The name of a caller where no keys are set."""

_header = APIKeyHeader(
    name="X-Api-Key",
    scheme_name="ApiKey",
    auto_error=False,
    description="If the service has keys.",
)
_bearer = HTTPBearer(
    scheme_name="Bearer", auto_error=False, description="The same keys as X-Api-Key."
)
_admin_header = APIKeyHeader(
    name="X-Admin-Key",
    scheme_name="AdminKey",
    auto_error=False,
    description="If the service has keys for operators.",
)

BROWSER_HEADERS = (
    *("Accept", "Authorization", "Content-Encoding", "Content-Type"),
    *("X-Admin-Key", "X-Api-Key", "X-Request-Id", "X-Request-Timeout"),
    *("traceparent", "tracestate"),
)
"""Headers of requests that the documentation names: what a page of another origin may send."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Sent with every answer that does not say otherwise."""


def check_api_key(settings: Settings, given: str | None) -> str:
    """Return the name of the key that was given, `ANONYMOUS` where none are set.

    For routes that are no HTTP routes; the others depend on `require_key`.

    Raises
    ------
    UnauthorizedError
        If there are keys and ``given`` is none of them.
    """
    if not settings.api_keyring:
        return ANONYMOUS
    return _check(settings.api_keyring, given, "X-Api-Key")


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header (RFC 6750); None without one."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def require_key(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Let a call through if no keys are set, or one of them was sent in either header."""
    given = header if header is not None or bearer is None else bearer.credentials
    service = request.app.state.service
    name = check_api_key(service.settings, given)
    who = caller(request.client.host if request.client else "", name)
    RequestState.of(request.scope).caller = who
    service.rates.count_request(who)


def require_admin_key(
    request: Request, given: Annotated[str | None, Depends(_admin_header)]
) -> None:
    """Let an operator's call through: with an admin key, or without one on loopback.

    A browser sends ``Origin``; without a key, a page of another site must not be able to
    make the operator's own browser call this.
    """
    settings: Settings = request.app.state.service.settings
    if settings.admin_keyring:
        _check(settings.admin_keyring, given, "X-Admin-Key")
    elif not settings.on_loopback:
        raise ForbiddenError(
            "SNAC_ADMIN_KEY is not set, so this call is open on a loopback address only"
        )
    elif "origin" in request.headers:
        raise ForbiddenError("set SNAC_ADMIN_KEY to make this call from a browser")


def caller(address: str, name: str) -> str:
    """Return who is counted against a rate limit: the key's holder, or an address without keys."""
    return address if name == ANONYMOUS else name


def allow_origins(app: FastAPI, settings: Settings) -> None:
    """Let pages of ``SNAC_CORS_ORIGINS`` call from a browser; without any, none may."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=BROWSER_HEADERS,
            expose_headers=["*"],
        )


def _check(ring: tuple[Key, ...], given: str | None, header: str) -> str:
    challenge = {"WWW-Authenticate": "ApiKey"}
    if given is None:
        also = " or as Authorization: Bearer" if header == "X-Api-Key" else ""
        raise UnauthorizedError(f"send the key in the {header} header{also}", challenge)
    key = keys.find(ring, given)
    if key is None:
        raise UnauthorizedError(f"the key in the {header} header is wrong", challenge)
    return key.name

"""Access control: API keys, admin keys, and security headers for browsers."""

from __future__ import annotations

import ipaddress
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
"""The name of a caller when no keys are set."""

_header = APIKeyHeader(
    name="X-Api-Key",
    scheme_name="ApiKey",
    auto_error=False,
    description="Required if the service has API keys.",
)
_bearer = HTTPBearer(
    scheme_name="Bearer", auto_error=False, description="The same keys as X-Api-Key."
)
_admin_header = APIKeyHeader(
    name="X-Admin-Key",
    scheme_name="AdminKey",
    auto_error=False,
    description="Required if the service has admin keys.",
)

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers that proxies add."""

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
"""Default headers of every response."""


def check_api_key(settings: Settings, given: str | None) -> str:
    """Return the name of the given key, `ANONYMOUS` if no keys are set.

    For WebSocket routes; HTTP routes depend on `require_key`.

    Raises
    ------
    UnauthorizedError
        If keys are set and ``given`` is none of them.
    """
    if not settings.api_keyring:
        return ANONYMOUS
    return _check(settings.api_keyring, given, "X-Api-Key")


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header (RFC 6750); None without one."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def require_key(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Admit a request if no keys are set or one was sent in either header, and count it."""
    given = header if header is not None or bearer is None else bearer.credentials
    service = request.app.state.service
    address = _address(request)
    name = service.guesses.check(address, given, lambda: check_api_key(service.settings, given))
    who = caller(address, name)
    RequestState.of(request.scope).caller = who
    service.rates.count_request(who)


async def require_admin_key(
    request: Request, given: Annotated[str | None, Depends(_admin_header)]
) -> None:
    """Admit an operator's request: with an admin key, or on loopback if no keys are set at all.

    Without a key, requests that a proxy has passed on are refused, whoever they come from, and
    requests with an ``Origin`` header: otherwise any web page could make the operator's browser
    send them. Another worker of this service has its own way in.
    """
    service = request.app.state.service
    settings: Settings = service.settings
    if settings.admin_keyring:
        service.guesses.check(
            _address(request), given, lambda: _check(settings.admin_keyring, given, "X-Admin-Key")
        )
    elif request.client is None:
        return
    elif settings.api_keyring or settings.trusted_proxies:
        raise ForbiddenError("set SNAC_ADMIN_KEY: where keys or proxies are, this call needs one")
    elif not settings.on_loopback or any(name in request.headers for name in _FORWARDED):
        raise ForbiddenError(
            "SNAC_ADMIN_KEY is not set, so this call is open on a loopback address only"
        )
    elif "origin" in request.headers:
        raise ForbiddenError("set SNAC_ADMIN_KEY to make this call from a browser")


async def require_metrics_key(request: Request) -> None:
    """Admit a scrape: with the key as a bearer token, if one is set, or from another worker."""
    service = request.app.state.service
    secret = service.settings.metrics_key
    if secret is None or request.client is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    token = given.strip() if scheme.lower() == "bearer" else None
    ring = (Key("metrics", secret.get_secret_value()),)
    service.guesses.check(
        _address(request), token, lambda: _check(ring, token, "Authorization: Bearer", "Bearer")
    )


def caller(address: str, name: str) -> str:
    """Return who is counted against limits: the key's name, or the address if no keys are set.

    Of IPv6 that is the network: who has one address has all of its /64.
    """
    if name != ANONYMOUS:
        return name
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def allow_origins(app: FastAPI, settings: Settings) -> None:
    """Allow cross-origin requests from ``SNAC_CORS_ORIGINS`` only."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=BROWSER_HEADERS,
            expose_headers=["*"],
        )


def _check(ring: tuple[Key, ...], given: str | None, header: str, scheme: str = "ApiKey") -> str:
    challenge = {"WWW-Authenticate": scheme}
    if given is None:
        also = " or as Authorization: Bearer" if header == "X-Api-Key" else ""
        raise UnauthorizedError(f"send the key in the {header} header{also}", challenge)
    key = keys.find(ring, given)
    if key is None:
        raise UnauthorizedError(f"the key in the {header} header is wrong", challenge)
    return key.name

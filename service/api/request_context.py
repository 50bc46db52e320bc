"""What surrounds every request: an id, a log line, a count, model headers, and no bare 500."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReadyError
from service.observability.metrics import Metrics
from service.problems import problem_response
from service.security import HEADERS

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = ("/health/", "/metrics")


class RequestContext:
    """Give each request an id, and answer it even when a handler fails.

    Handlers leave ``request.state.model`` (a codec), ``request.state.timings`` (seconds by
    name) and ``request.state.outcome`` (a problem's name); they become response headers and
    metric labels here.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        given = Headers(scope=scope).get("x-request-id", "")
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=state["request_id"])
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), state)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if status:
                raise
            stopped = NotReadyError("the service stopped before this was answered")
            await problem_response(Request(scope), stopped)(scope, receive, send_with_headers)
        except Exception as error:
            log.exception("request failed", method=scope["method"], path=scope["path"])
            if status:
                raise
            await problem_response(Request(scope), error)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            outcome = state.get("outcome", "ok")
            model = state.get("model")
            self.metrics.answered(route, outcome, model and model.version, seconds)
            quiet = scope["path"].startswith(_QUIET) and status in (200, 503)
            (log.debug if quiet else log.info)(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                outcome=outcome,
                caller=state.get("caller"),
                seconds=round(seconds, 4),
            )


def _add_headers(headers: MutableHeaders, state: dict[str, Any]) -> None:
    headers["X-Request-Id"] = str(state["request_id"])
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    model = state.get("model")
    if model is not None:
        # A version may be named after a file, and a file after anything.
        headers["X-Model-Version"] = quote(model.version, safe=":@+")
        headers["X-Token-Space"] = model.token_space
    timings = state.get("timings")
    if timings:
        headers["Server-Timing"] = ", ".join(
            f"{name};dur={1000 * seconds:.1f}" for name, seconds in timings.items()
        )

"""The outer middleware: request IDs, access log, metrics, common headers and error responses."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from urllib.parse import quote

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReadyError
from service.observability.metrics import Metrics
from service.problems import problem_response
from service.request_state import RequestState
from service.security import HEADERS

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = ("/health/", "/metrics")


class RequestContext:
    """Give each request an ID, and answer it even if a handler fails.

    The `RequestState` that handlers fill becomes response headers, metric labels and log fields.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        state = RequestState.of(scope)
        given = Headers(scope=scope).get("x-request-id", "")
        state.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=state.request_id)
        trace_id = scope["app"].state.service.tracing.trace_id()
        if trace_id is not None:
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
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
            version = state.model.version if state.model else None
            self.metrics.answered(route, state.outcome, version, seconds, trace_id)
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            quiet = path.startswith(_QUIET) and status in (200, 503)
            (log.debug if quiet else log.info)(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                outcome=state.outcome,
                caller=state.caller,
                seconds=round(seconds, 4),
            )


def _add_headers(headers: MutableHeaders, state: RequestState) -> None:
    headers["X-Request-Id"] = state.request_id
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    model = state.model
    if model is not None:
        # A version may be a file name, with any characters.
        headers["X-Model-Version"] = quote(model.version, safe=":@+")
        headers["X-Token-Space"] = model.token_space
    if state.timings:
        headers["Server-Timing"] = ", ".join(
            f"{name};dur={1000 * seconds:.1f}" for name, seconds in state.timings.items()
        )

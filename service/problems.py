"""Errors as RFC 9457 problems: the table from exception to HTTP status."""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.errors import (
    DeadlineError,
    DisconnectedError,
    EngineDeadError,
    ForbiddenError,
    InvalidRequestError,
    MalformedBodyError,
    NotAcceptableError,
    NotReadyError,
    OverloadedError,
    RateLimitError,
    ReloadError,
    SlowClientError,
    StreamIdleError,
    TooLargeError,
    UnauthorizedError,
    UnsupportedMediaError,
)
from service.request_state import RequestState
from snac_core.errors import (
    AudioError,
    AudioTooLongError,
    CodesError,
    LayoutError,
    SnacError,
    TokenSpaceError,
)

MEDIA_TYPE = "application/problem+json"


@dataclasses.dataclass(frozen=True)
class ProblemType:
    """HTTP status, URN name and title of one kind of error."""

    status: int
    name: str
    title: str


INTERNAL = ProblemType(500, "internal", "The service failed unexpectedly")


PROBLEMS: dict[type[BaseException], ProblemType] = {
    AudioError: ProblemType(400, "unreadable-audio", "The audio cannot be read"),
    MalformedBodyError: ProblemType(400, "malformed-body", "The body cannot be read"),
    UnauthorizedError: ProblemType(401, "unauthorized", "A valid key is required"),
    ForbiddenError: ProblemType(403, "forbidden", "This call is closed here"),
    NotAcceptableError: ProblemType(406, "not-acceptable", "No acceptable representation"),
    SlowClientError: ProblemType(408, "slow-client", "The body came too slowly"),
    StreamIdleError: ProblemType(408, "idle", "Nothing moved on the stream"),
    TokenSpaceError: ProblemType(409, "token-space", "The codes belong to another token space"),
    ReloadError: ProblemType(409, "reload-failed", "The version is not being served"),
    TooLargeError: ProblemType(413, "too-large", "The request is too large"),
    AudioTooLongError: ProblemType(413, "audio-too-long", "The audio lasts too long"),
    UnsupportedMediaError: ProblemType(415, "unsupported-media", "The content type is not read"),
    InvalidRequestError: ProblemType(422, "invalid-request", "The request is not valid"),
    RequestValidationError: ProblemType(422, "invalid-request", "The request is not valid"),
    CodesError: ProblemType(422, "invalid-codes", "The codes are not valid"),
    LayoutError: ProblemType(422, "invalid-layout", "The tokens do not follow their layout"),
    OverloadedError: ProblemType(429, "overloaded", "The queue is full"),
    RateLimitError: ProblemType(429, "rate-limited", "Too much in too little time"),
    DisconnectedError: ProblemType(499, "disconnected", "The client went away"),
    ClientDisconnect: ProblemType(499, "disconnected", "The client went away"),
    torch.OutOfMemoryError: ProblemType(503, "out-of-memory", "The device has too little memory"),
    NotReadyError: ProblemType(503, "not-ready", "The service is not ready"),
    EngineDeadError: ProblemType(503, "engine-dead", "The engine has stopped"),
    DeadlineError: ProblemType(504, "deadline", "The answer took too long"),
}


def problem_type(error: BaseException) -> ProblemType:
    """Return the table's entry for an error's nearest listed class."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        return ProblemType(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    return next((PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS), INTERNAL)


def problem(error: BaseException, request_id: str, instance: str) -> dict[str, Any]:
    """Return an error as an RFC 9457 object; only the log has the details of unexpected errors."""
    if isinstance(error, RequestValidationError):
        error = InvalidRequestError.from_validation(error)
    kind = problem_type(error)
    if kind is INTERNAL:
        detail = f"The log has the reason under request id {request_id}."
    elif isinstance(error, HTTPException):
        detail = str(error.detail)
    else:
        detail = str(error) or kind.title
    body: dict[str, Any] = {
        "type": f"urn:snac:problem:{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": instance,
        "request_id": request_id,
    }
    for name in ("level", "index", "value", "legal", "errors", "retry_after"):
        if getattr(error, name, None) not in (None, []):
            body[name] = getattr(error, name)
    return body


def problem_response(request: Request, error: Exception) -> Response:
    """Return an error as a response, and record the outcome for logs and metrics."""
    kind = problem_type(error)
    state = RequestState.of(request.scope)
    state.outcome = kind.name
    body = problem(error, state.request_id, request.url.path)
    headers = dict(getattr(error, "headers", None) or {})
    return Response(json.dumps(body), kind.status, headers, MEDIA_TYPE)


async def _handle(request: Request, error: Exception) -> Response:
    return problem_response(request, error)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every expected error with a problem."""
    expected: tuple[type[Exception], ...] = (
        SnacError,
        HTTPException,
        RequestValidationError,
        ClientDisconnect,
        torch.OutOfMemoryError,
    )
    for cls in expected:
        app.add_exception_handler(cls, _handle)

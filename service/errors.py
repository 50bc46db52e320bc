"""Every error of the service, and the one table that turns errors into HTTP problems.

    SnacError                       snac_core.errors: audio, codes, token spaces, models
    └── ServiceError
        ├── MalformedBodyError      a body that is not what its content type says
        ├── InvalidRequestError     a field, header or parameter with an impossible value
        ├── UnauthorizedError       no key, or a wrong one
        ├── ForbiddenError          a call that is closed to everybody here
        ├── NotAcceptableError      no representation that the client accepts
        ├── TooLargeError           more bytes, files or items than one request may carry
        ├── UnsupportedMediaError   a content type that the call does not read
        ├── SlowClientError         a body that came too slowly
        │   └── StreamIdleError     a stream on which nothing moved for too long
        ├── OverloadedError         the queue is full
        │   └── RateLimitError      one key or address has had its share of this minute
        ├── DeadlineError           the answer took longer than a request may
        ├── DisconnectedError       the client went away before its answer
        ├── ReloadError             another version was asked for and is not being served
        └── NotReadyError           no model to answer with, or a service that is stopping
            └── EngineDeadError     the engine thread ended; only a restart helps

Problems have the form of RFC 9457, https://www.rfc-editor.org/rfc/rfc9457.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from snac_core.errors import (
    AudioError,
    AudioTooLongError,
    CodesError,
    LayoutError,
    SnacError,
    TokenSpaceError,
)

MEDIA_TYPE = "application/problem+json"
_MAX_LISTED = 5

LONGEST_RETRY_SECONDS = 60
"""The most that `Retry-After` asks for: how fast a queue empties is a guess, and a bad one may
not send clients away for an hour."""


class ServiceError(SnacError):
    """Base of the errors that belong to HTTP; ``headers`` go out with the answer."""

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.headers = dict(headers or {})


class MalformedBodyError(ServiceError):
    """A body that is not what its content type says."""


class InvalidRequestError(ServiceError):
    """A field, header or parameter with an impossible value."""

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)

    @classmethod
    def from_validation(
        cls, error: ValidationError | RequestValidationError
    ) -> InvalidRequestError:
        """Say the first few things wrong, each with the place where it was found."""
        found = error.errors()
        listed = [
            {"place": ".".join(map(str, item["loc"])), "reason": str(item["msg"])}
            for item in found[:_MAX_LISTED]
        ]
        more = f" (and {len(found) - _MAX_LISTED} more)" if len(found) > _MAX_LISTED else ""
        detail = "; ".join(
            f"{item['place']}: {item['reason']}" if item["place"] else item["reason"]
            for item in listed
        )
        return cls(detail + more, listed)


class UnauthorizedError(ServiceError):
    """No key, or a wrong one."""


class ForbiddenError(ServiceError):
    """A call that is closed to everybody here."""


class NotAcceptableError(ServiceError):
    """No representation that the client accepts."""


class TooLargeError(ServiceError):
    """More bytes, files or items than one request may carry."""


class UnsupportedMediaError(ServiceError):
    """A content type that the call does not read."""


class OverloadedError(ServiceError):
    """The queue is full; ``retry_after`` seconds from now, a minute at most, it should not be."""

    def __init__(self, detail: str, retry_after: float) -> None:
        self.retry_after = max(1, math.ceil(min(retry_after, LONGEST_RETRY_SECONDS)))
        super().__init__(detail, {"Retry-After": str(self.retry_after)})


class SlowClientError(ServiceError):
    """A body that came too slowly, or stopped coming; the connection ends with the answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, {"Connection": "close"})


class StreamIdleError(SlowClientError):
    """A stream on which nothing came, or nothing was taken, for too long."""


class RateLimitError(OverloadedError):
    """One key or address has had its share; ``retry_after`` seconds from now it has more."""


class DeadlineError(ServiceError):
    """The answer took longer than a request may."""


class DisconnectedError(ServiceError):
    """The client went away before its answer."""


class ReloadError(ServiceError):
    """Another version was asked for and is not being served."""


class NotReadyError(ServiceError):
    """No model to answer with, or a service that is stopping."""


class EngineDeadError(NotReadyError):
    """The engine thread ended; only a restart helps."""


@dataclasses.dataclass(frozen=True)
class ProblemType:
    """How one kind of error is told to a client."""

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
    """Find an error's row in the table by its nearest class."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        return ProblemType(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    return next((PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS), INTERNAL)


def problem(error: BaseException, request_id: str, instance: str) -> dict[str, Any]:
    """Describe an error as an RFC 9457 object; what nobody foresaw keeps its words to the log."""
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
    """Answer with an error, and leave its name for the metrics."""
    kind = problem_type(error)
    request.state.outcome = kind.name
    body = problem(error, getattr(request.state, "request_id", ""), request.url.path)
    headers = dict(getattr(error, "headers", None) or {})
    return Response(json.dumps(body), kind.status, headers, MEDIA_TYPE)


async def _handle(request: Request, error: Exception) -> Response:
    return problem_response(request, error)


def install(app: FastAPI) -> None:
    """Have every foreseen error of ``app`` answered as a problem."""
    foreseen: tuple[type[Exception], ...] = (
        SnacError,
        HTTPException,
        RequestValidationError,
        ClientDisconnect,
        torch.OutOfMemoryError,
    )
    for cls in foreseen:
        app.add_exception_handler(cls, _handle)

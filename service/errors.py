"""Every error of the service; `service.problems` maps them to HTTP.

    SnacError                       snac_core.errors: audio, codes, token spaces, models
    └── ServiceError
        ├── MalformedBodyError      a body that does not match its content type
        ├── InvalidRequestError     a field, header or parameter with an invalid value
        ├── UnauthorizedError       no API key, or a wrong one
        ├── ForbiddenError          a call that is disabled on this server
        ├── NotAcceptableError      no representation that the client accepts
        ├── TooLargeError           more bytes, files or items than one request may carry
        ├── UnsupportedMediaError   a content type that the call does not support
        ├── SlowClientError         a body that arrived too slowly
        │   └── StreamIdleError     a stream without traffic for too long
        ├── OverloadedError         the queue is full
        │   └── RateLimitError      the caller exceeded its rate limit
        ├── DeadlineError           the request exceeded its deadline
        ├── DisconnectedError       the client disconnected before the response
        ├── ReloadError             the requested version could not be loaded
        └── NotReadyError           no model is loaded, or the service is stopping
            └── EngineDeadError     the engine thread ended; only a restart helps

Problems have the form of RFC 9457, https://www.rfc-editor.org/rfc/rfc9457.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from snac_core.errors import (
    SnacError,
)

_MAX_LISTED = 5

LONGEST_RETRY_SECONDS = 60
"""Upper bound of `Retry-After`: the drain rate is an estimate, and a bad one must not send clients
away for an hour."""


class ServiceError(SnacError):
    """Base of the HTTP errors; ``headers`` are added to the response."""

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.headers = dict(headers or {})


class MalformedBodyError(ServiceError):
    """A body that does not match its content type."""


class InvalidRequestError(ServiceError):
    """A field, header or parameter with an invalid value."""

    def __init__(self, detail: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)

    @classmethod
    def from_validation(
        cls, error: ValidationError | RequestValidationError
    ) -> InvalidRequestError:
        """List the first few validation errors, each with its location."""
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
    """No API key, or a wrong one."""


class ForbiddenError(ServiceError):
    """A call that is disabled on this server."""


class NotAcceptableError(ServiceError):
    """No representation that the client accepts."""


class TooLargeError(ServiceError):
    """More bytes, files or items than one request may carry."""


class UnsupportedMediaError(ServiceError):
    """A content type that the call does not support."""


class OverloadedError(ServiceError):
    """The queue is full; it should have room in ``retry_after`` seconds, at most 60."""

    def __init__(self, detail: str, retry_after: float) -> None:
        self.retry_after = max(1, math.ceil(min(retry_after, LONGEST_RETRY_SECONDS)))
        super().__init__(detail, {"Retry-After": str(self.retry_after)})


class SlowClientError(ServiceError):
    """A body that arrived too slowly, or stopped arriving; the response closes the connection."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, {"Connection": "close"})


class StreamIdleError(SlowClientError):
    """A stream on which nothing was received, or nothing sent was read, for too long."""


class RateLimitError(OverloadedError):
    """The caller exceeded its rate limit; it may continue in ``retry_after`` seconds."""


class DeadlineError(ServiceError):
    """The request exceeded its deadline."""


class DisconnectedError(ServiceError):
    """The client disconnected before the response."""


class ReloadError(ServiceError):
    """The requested version could not be loaded."""


class NotReadyError(ServiceError):
    """No model is loaded, or the service is stopping."""


class EngineDeadError(NotReadyError):
    """The engine thread ended; only a restart helps."""

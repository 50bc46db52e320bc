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

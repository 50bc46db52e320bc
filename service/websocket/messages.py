"""Schemas of the WebSocket messages; docs/streaming.md describes them.

Text frames are JSON, one object each (or bare tokens); binary frames are int32 tokens or PCM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from service.errors import InvalidRequestError, MalformedBodyError, TooLargeError
from service.fields import IncompleteField, LayoutField, Seed
from service.limits.body import check_names, check_nesting
from service.websocket.pcm import PcmEncoding, PcmFormat
from snac_core.types import Invalid, NoiseMode

MAX_START_BYTES = 2**14
"""Bytes of the message "start": its fields are short, and it is parsed on the event loop."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Start(_Message):
    """Fields of "start" that both kinds of stream have."""

    type: Literal["start"] = "start"
    layout: LayoutField = "hierarchical"
    base: NonNegativeInt | None = Field(default=None, lt=2**31)
    token_space: str | None = Field(
        default=None, max_length=64, description="Refused unless it is the model's."
    )


class DecodeStart(Start):
    """How to read the tokens of a decoding stream, and the format of its audio."""

    seed: Seed = 0
    noise: NoiseMode = "seeded"
    format: PcmFormat = "s16le"
    num_samples: PositiveInt | None = Field(
        default=None, lt=2**53, description="Samples to return; null for all."
    )
    lookahead_frames: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Coarse frames of look-ahead before a frame is decoded; null for as many "
        "as make the audio exact.",
    )
    invalid: Invalid = Field(
        default="refuse",
        description="What becomes of a frame with a token that its place does not allow.",
    )


class EncodeStart(Start):
    """The format of the PCM of an encoding stream, and the layout of its codes."""

    sample_rate: PositiveInt | None = Field(
        default=None, lt=2**31, description="Hz; null for the model's own."
    )
    encoding: PcmEncoding = "s16le"


class End(_Message):
    """The end of input.

    ``incomplete="drop"`` drops the tokens of an incomplete last frame, which are otherwise an
    error: a language model may stop anywhere.
    """

    type: Literal["end"]
    num_samples: PositiveInt | None = Field(default=None, lt=2**53)
    incomplete: IncompleteField = "refuse"


_M = TypeVar("_M", bound=_Message)
_S = TypeVar("_S", bound=Start)


def parse_json(text: str, max_depth: int) -> object:
    """Parse a text frame.

    Raises
    ------
    MalformedBodyError
        If it is not JSON, or nested deeper than ``max_depth``.
    """
    data = text.encode()
    check_nesting(data, max_depth)
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"the message is not JSON: {error}") from None
    return value


def check(kind: type[_M], value: object) -> _M:
    """Validate a message as ``kind``; raises InvalidRequestError naming the invalid fields."""
    if isinstance(value, dict):
        check_names(value, kind.model_fields)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None


def check_start(kind: type[_S], message: str | bytes, max_depth: int) -> _S:
    """Parse the first message of a stream.

    Raises
    ------
    TooLargeError
        For more than `MAX_START_BYTES`.
    MalformedBodyError, InvalidRequestError
        For any other message, or invalid fields.
    """
    if len(message) > MAX_START_BYTES:
        raise TooLargeError(
            f"the first message has {len(message)} bytes; a start has at most {MAX_START_BYTES}"
        )
    value = parse_json(message, max_depth) if isinstance(message, str) else None
    if not isinstance(value, dict) or value.get("type") != "start":
        raise InvalidRequestError('the first message must be {"type": "start", ...}')
    return check(kind, value)


def start_from_query(kind: type[_S], query: Mapping[str, str]) -> _S | None:
    """Return the start given by URL parameters; None if there are none.

    Raises
    ------
    InvalidRequestError
        For unknown or invalid parameters.
    """
    if not query:
        return None
    check_names(query, kind.model_fields)
    try:
        return kind.model_validate_strings(dict(query))
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None


def tokens_of(value: object) -> object:
    """Return the tokens of a JSON message: a bare list or number, or the field ``tokens``.

    Raises
    ------
    InvalidRequestError
        For an object that is not a tokens message.
    """
    if not isinstance(value, dict):
        return value
    if value.get("type") != "tokens" or set(value) != {"type", "tokens"}:
        raise InvalidRequestError(
            'a message must be tokens, {"type": "tokens", "tokens": ...} or {"type": "end"}'
        )
    return value["tokens"]


def dump(message: Mapping[str, Any]) -> str:
    """Return a message as JSON text."""
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY).decode()

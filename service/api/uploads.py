"""Reading request bodies into memory, within limits and without temporary files."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from fastapi import Request

from service.api.content_negotiation import content_type
from service.api.multipart import MULTIPART, Form, read_form, with_fields
from service.api.raw_audio import raw_format
from service.api.requests import Call
from service.api.schemas import AudioOptions
from service.errors import InvalidRequestError, TooLargeError, UnsupportedMediaError
from service.limits.memory import SMALL_BYTES
from snac_core.audio import Channel, RawFormat, parse_channel

PARSED_BYTES = 8
"""Memory that codes may take once they are parsed, for each byte of their body: a msgpack number
of one byte becomes an int64."""

# What plain `curl --data-binary` and clients without a content type send.
UNNAMED = (
    *("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"),
    *("application/ogg", "application/mp4"),
)


_Options = TypeVar("_Options", bound=AudioOptions)


@dataclasses.dataclass
class Upload:
    """An uploaded file; its ``name`` is only returned to the client.

    ``data`` is cleared once it has been decoded, so that long audio is not in memory twice.
    """

    data: bytes
    name: str = ""
    channel: Channel = "average"
    raw: RawFormat | None = None
    """The format of samples without a header."""
    warnings: list[str] = dataclasses.field(default_factory=list)
    """Warnings about the audio, filled once it has been read."""


def warning_headers(upload: Upload) -> dict[str, str]:
    """Return the header that carries an upload's warnings; none if there are none."""
    return {"X-Audio-Warning": " ".join(upload.warnings)} if upload.warnings else {}


async def read_audio(request: Request, query: _Options) -> tuple[Upload, _Options]:
    """Return the uploaded audio file, the whole body or the part ``file``, and the options.

    Parameters
    ----------
    query
        The call's query parameters; fields of a multipart body are added to them.

    Raises
    ------
    UnsupportedMediaError
        For a content type other than audio, plain bytes or multipart.
    InvalidRequestError
        For a multipart body without a ``file``, or with fields that are not valid.
    """
    media = content_type(request.headers.get("content-type"))
    if media == MULTIPART:
        form = await read_form(request, "file", 1, type(query).model_fields)
        options = with_fields(query, form.fields)
        if not form.files:
            raise InvalidRequestError("the multipart body has no file in a part named 'file'")
        return _uploads(form, options)[0], options
    if media in UNNAMED or media.startswith(("audio/", "video/")):
        data = b"".join([chunk async for chunk in request.stream()])
        header = request.headers.get("content-type", "")
        raw = raw_format(header, data[:4])
        return Upload(data, channel=parse_channel(query.channel), raw=raw), query
    raise UnsupportedMediaError(
        f"send audio as audio/*, application/octet-stream or {MULTIPART}, not {media!r:.100}"
    )


async def read_uploads(
    request: Request, query: _Options, most: int
) -> tuple[list[Upload], _Options]:
    """Return the files in the parts ``files`` of a multipart body, in order, and the options.

    Raises
    ------
    UnsupportedMediaError, MalformedBodyError, InvalidRequestError, TooLargeError
        As `read_form` does.
    """
    form = await read_form(request, "files", most, type(query).model_fields)
    options = with_fields(query, form.fields)
    return _uploads(form, options), options


def _uploads(form: Form, options: AudioOptions) -> list[Upload]:
    channel = parse_channel(options.channel)
    return [
        Upload(data, name, channel, raw_format(media, data[:4])) for data, name, media in form.files
    ]


async def read_codes_body(call: Call) -> tuple[bytes, str]:
    """Return a decode request's body and media type.

    Raises
    ------
    TooLargeError
        As soon as more than ``SNAC_MAX_CODES_BYTES`` have come.
    """
    most = call.service.settings.max_codes_bytes

    async def read() -> bytes:
        body = bytearray()
        async for chunk in call.request.stream():
            body += chunk
            if len(body) > most:
                raise TooLargeError(f"codes may take at most {most} bytes")
        return bytes(body)

    media = content_type(call.request.headers.get("content-type"))
    data = await call.before_deadline(read())
    if len(data) > SMALL_BYTES:
        call.reservation.grow(PARSED_BYTES * len(data))
    return data, media

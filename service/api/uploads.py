"""Reading request bodies into memory, within limits and without temporary files."""

from __future__ import annotations

import dataclasses

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.content_negotiation import content_type
from service.api.raw_audio import raw_format
from service.api.requests import Call
from service.errors import (
    InvalidRequestError,
    MalformedBodyError,
    TooLargeError,
    UnsupportedMediaError,
)
from service.limits.memory import SMALL_BYTES
from snac_core.audio import Channel, RawFormat

MULTIPART = "multipart/form-data"
PARSED_BYTES = 8
"""Memory that codes may take once they are parsed, for each byte of their body: a msgpack number
of one byte becomes an int64."""

MAX_FIELDS = 8
"""Most parts of a multipart body that are not files; they are ignored."""

# What plain `curl --data-binary` and clients without a content type send.
UNNAMED = (
    *("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"),
    *("application/ogg", "application/mp4"),
)


MAX_FIELD_BYTES = 16 * 2**10
"""Bytes of one of them."""

_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")


class _InMemoryParser(MultiPartParser):
    """A multipart parser that never writes a temporary file; the body limit bounds its memory."""

    spool_max_size = 0


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
    """What there is to say of the audio once it has been read."""


def warning_headers(upload: Upload) -> dict[str, str]:
    """Return the header that carries an upload's warnings; none if there are none."""
    return {"X-Audio-Warning": " ".join(upload.warnings)} if upload.warnings else {}


async def read_audio(request: Request) -> Upload:
    """Return the uploaded audio file: the whole body or the part ``file``.

    Raises
    ------
    UnsupportedMediaError
        For a content type other than audio, plain bytes or multipart.
    InvalidRequestError
        For a multipart body without a ``file``.
    """
    media = content_type(request.headers.get("content-type"))
    if media == MULTIPART:
        uploads = await read_uploads(request, "file", most=1)
        if not uploads:
            raise InvalidRequestError("the multipart body has no file in a part named 'file'")
        return uploads[0]
    if media in UNNAMED or media.startswith(("audio/", "video/")):
        data = b"".join([chunk async for chunk in request.stream()])
        header = request.headers.get("content-type", "")
        return Upload(data, raw=raw_format(header, data[:4]))
    raise UnsupportedMediaError(
        f"send audio as audio/*, application/octet-stream or {MULTIPART}, not {media!r:.100}"
    )


async def read_uploads(request: Request, part: str, most: int) -> list[Upload]:
    """Return the files in the parts named ``part`` of a multipart body, in order.

    Raises
    ------
    UnsupportedMediaError
        If the body is not multipart.
    MalformedBodyError
        If the body is malformed.
    TooLargeError
        If it has more than ``most`` files.
    """
    media = content_type(request.headers.get("content-type"))
    if media != MULTIPART:
        raise UnsupportedMediaError(f"send {MULTIPART}, not {media!r:.100}")
    _, parameters = parse_options_header(request.headers["content-type"])
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in _UTF8:
        raise UnsupportedMediaError(f"names of files and fields are UTF-8, not {charset!r:.40}")
    parser = _InMemoryParser(
        request.headers,
        request.stream(),
        max_files=most,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooLargeError(f"at most {most} files may be sent at once") from error
        raise MalformedBodyError(f"the multipart body cannot be read: {error.message}") from error
    try:
        files = [item for item in form.getlist(part) if isinstance(item, UploadFile)]
        return [Upload(await file.read(), file.filename or "") for file in files]
    finally:
        await form.close()


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

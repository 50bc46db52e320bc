"""Reading request bodies into memory, within limits and without temporary files."""

from __future__ import annotations

import dataclasses

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.content_negotiation import content_type
from service.api.requests import Call
from service.errors import (
    InvalidRequestError,
    MalformedBodyError,
    TooLargeError,
    UnsupportedMediaError,
)

MULTIPART = "multipart/form-data"
MAX_FIELDS = 8
"""Most parts of a multipart body that are not files; they are ignored."""

# What plain `curl --data-binary` and clients without a content type send.
UNNAMED = ("", "application/octet-stream", "application/x-www-form-urlencoded")


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
        return Upload(b"".join([chunk async for chunk in request.stream()]))
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
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=most, max_fields=MAX_FIELDS
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
    return await call.before_deadline(read()), media

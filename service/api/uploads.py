"""Reading request bodies into memory, within limits; nothing is written to disk."""

from __future__ import annotations

import dataclasses

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.content_negotiation import content_type
from service.errors import (
    InvalidRequestError,
    MalformedBodyError,
    TooLargeError,
    UnsupportedMediaError,
)

MULTIPART = "multipart/form-data"
MAX_FIELDS = 8
"""Parts of a multipart body that are no files; nobody reads them."""

# What plain `curl --data-binary` and clients that name nothing send.
UNNAMED = ("", "application/octet-stream", "application/x-www-form-urlencoded")


class _InMemoryParser(MultiPartParser):
    """A multipart parser that never spools to a temporary file; the body limit bounds it."""

    spool_max_size = 0


@dataclasses.dataclass
class Upload:
    """A file that a client sent; its ``name`` is only ever repeated to the client.

    Whoever has read it lets go of ``data``: an hour of audio is not held twice.
    """

    data: bytes
    name: str = ""


async def read_audio(request: Request) -> Upload:
    """Return the audio file that ``request`` carries, as its whole body or as part ``file``.

    Raises
    ------
    UnsupportedMediaError
        For a content type that is neither audio, unnamed bytes nor multipart.
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
        If it is damaged.
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


async def read_bounded(request: Request, max_bytes: int) -> bytes:
    """Return the whole body, giving up as soon as it has more than ``max_bytes``.

    Raises
    ------
    TooLargeError
        Saying the limit.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLargeError(f"codes may take at most {max_bytes} bytes")
    return bytes(body)

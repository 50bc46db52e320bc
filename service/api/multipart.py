"""Multipart bodies: files, and fields that are read as query parameters are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.content_negotiation import content_type
from service.api.parameters import check_names
from service.errors import (
    InvalidRequestError,
    MalformedBodyError,
    TooLargeError,
    UnsupportedMediaError,
)

MULTIPART = "multipart/form-data"

MAX_FIELDS = 8
"""Most parts of a multipart body that are not files."""

MAX_FIELD_BYTES = 16 * 2**10
"""Bytes of one of them."""

_LONGEST_NAME = 255
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")

_Options = TypeVar("_Options", bound=BaseModel)


@dataclasses.dataclass(frozen=True)
class Form:
    """What a multipart body holds: files, with their names and content types, and fields."""

    files: list[tuple[bytes, str, str]]
    fields: dict[str, str]


class _InMemoryParser(MultiPartParser):
    """A parser that knows which part is a file, and never writes a temporary one.

    The body limit bounds its memory.
    """

    spool_max_size = 0
    file_part = ""
    field_names: Collection[str] = ()

    def on_headers_finished(self) -> None:
        """Take the part for a file by its name, whatever it says of a file's own name.

        ``filename*`` is not of this format (RFC 7578, section 4.2), and some clients send only
        that, or no name at all.
        """
        part = self._current_part
        disposition = part.content_disposition or b""
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        check_names("form field", [name], [*self.field_names, self.file_part])
        if name == self.file_part and b"filename" not in options:
            quoted = _extended_name(disposition).replace("\\", "\\\\").replace('"', '\\"')
            part.content_disposition = disposition + f'; filename="{quoted}"'.encode()
        elif name != self.file_part and b"filename" in options:
            raise InvalidRequestError(f"the form field {name!r} is a file; it takes a value")
        super().on_headers_finished()


def _extended_name(disposition: bytes) -> str:
    """Return the parameter ``filename*`` of RFC 8187; "" without one."""
    message = Message()
    message["Content-Disposition"] = disposition.decode("latin-1").replace("\r", "")
    value = message.get_param("filename", "", "Content-Disposition")
    return collapse_rfc2231_value(value) if isinstance(value, tuple) else ""


async def read_form(request: Request, file_part: str, most: int, names: Collection[str]) -> Form:
    """Return the files in the parts ``file_part`` of a multipart body, in order, and its fields.

    Parameters
    ----------
    most
        How many files there may be.
    names
        Fields that the call takes. An empty value counts as none, as browsers send it.

    Raises
    ------
    UnsupportedMediaError
        If the body is not multipart, or not in UTF-8.
    MalformedBodyError
        If the body is malformed.
    InvalidRequestError
        For a part with another name, or a field that comes twice.
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
    parser.file_part, parser.field_names = file_part, names
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooLargeError(f"at most {most} files may be sent at once") from error
        raise MalformedBodyError(f"the multipart body cannot be read: {error.message}") from error
    files: list[tuple[bytes, str, str]] = []
    fields: dict[str, str] = {}
    try:
        for name, item in form.multi_items():
            if isinstance(item, UploadFile):
                filename = item.filename or ""
                data = _audio(await item.read(), filename, name)
                files.append((data, filename, item.content_type or ""))
            elif name in fields:
                raise InvalidRequestError(f"the form field {name!r} comes twice")
            elif item:
                fields[name] = item
    finally:
        await form.close()
    return Form(files, fields)


def _audio(data: bytes, filename: str, part: str) -> bytes:
    """Return a file's bytes; InvalidRequestError if they are a name that was to be opened."""
    if not filename and 0 < len(data) <= _LONGEST_NAME and data.isascii():
        text = data.decode()
        if text.isprintable():
            raise InvalidRequestError(
                f"the part {part!r} holds the text {text!r} and no audio; curl sends a file with "
                f"-F {part}=@{text}"
            )
    return data


def with_fields(query: _Options, fields: dict[str, str]) -> _Options:
    """Return a call's options from its query parameters and form fields.

    Raises
    ------
    InvalidRequestError
        For a value that is not valid, or given in both places.
    """
    twice = sorted(fields.keys() & query.model_fields_set)
    if twice:
        raise InvalidRequestError(f"{twice[0]}: given as a query parameter and as a form field")
    try:
        return type(query).model_validate(query.model_dump(exclude_unset=True) | fields)
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None

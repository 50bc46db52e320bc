"""Content types of samples without a header, and their formats."""

from __future__ import annotations

from email.message import Message

from service.errors import InvalidRequestError
from snac_core.audio import RawFormat

# Encoding, whether big-endian, and the rate that the type implies (RFC 2046, 2586 and 4856).
_TYPES: dict[str, tuple[str, bool, int | None]] = {
    "audio/pcm": ("PCM_16", False, None),
    "audio/l16": ("PCM_16", True, None),
    "audio/basic": ("ULAW", False, 8000),
    "audio/pcmu": ("ULAW", False, 8000),
    "audio/x-mulaw": ("ULAW", False, 8000),
    "audio/mulaw": ("ULAW", False, 8000),
    "audio/pcma": ("ALAW", False, 8000),
    "audio/x-alaw": ("ALAW", False, 8000),
    "audio/alaw": ("ALAW", False, 8000),
}


def raw_format(header: str, first_bytes: bytes) -> RawFormat | None:
    """Return the format that a Content-Type header gives; None if the body has its own header.

    Raises
    ------
    InvalidRequestError
        For a rate or a number of channels that is missing or impossible.
    """
    message = Message()
    message["Content-Type"] = header
    found = _TYPES.get(message.get_content_type())
    # Files of Sun's format, which has a header, are called audio/basic, too.
    if found is None or first_bytes.startswith((b".snd", b"RIFF")):
        return None
    subtype, big_endian, rate = found
    return RawFormat(
        _number(message, "rate", 768_000, rate),
        _number(message, "channels", 64, 1),
        subtype,
        big_endian,
    )


def _number(message: Message, name: str, largest: int, default: int | None) -> int:
    text = message.get_param(name)
    if text is None and default is not None:
        return default
    if isinstance(text, str) and text.isascii() and text.isdigit() and 0 < int(text[:9]) <= largest:
        return int(text)
    kind = message.get_content_type()
    raise InvalidRequestError(
        f"the content type {kind} needs {name}=, a number from 1 to {largest}, such as "
        f"{kind};rate=24000;channels=1; {name} is {text!r:.50}"
    )

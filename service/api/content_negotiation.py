"""Media types: parsing Content-Type, and negotiating the response by Accept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from service.errors import NotAcceptableError
from snac_core.audio import MEDIA_TYPES, AudioFormat

JSON = "application/json"
NDJSON = "application/x-ndjson"
NPZ = "application/x-npz"
MSGPACK = "application/msgpack"
ZIP = "application/zip"

AUDIO_FORMATS = {media: name for name, media in MEDIA_TYPES.items()}
"""Audio response formats by media type; the first is the default."""

MAX_RANGES = 64

_ALIASES = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/opus": "audio/ogg",
    "application/ogg": "audio/ogg",
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/ndjson": NDJSON,
    "application/jsonl": NDJSON,
}


@dataclasses.dataclass(frozen=True)
class _Range:
    media: str
    quality: float

    def specificity(self, offer: str) -> int:
        """How specifically this range matches ``offer``: 0 if it does not."""
        kind, _, subtype = self.media.partition("/")
        if self.media == offer:
            return 3
        if subtype == "*" and kind == offer.partition("/")[0]:
            return 2
        return int(self.media == "*/*")


def content_type(header: str | None) -> str:
    """Return the media type of a Content-Type header without parameters; "" if there is none."""
    media = (header or "").partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)


def audio_media(
    accept: str | None, format: AudioFormat | None, offers: Sequence[str] = tuple(AUDIO_FORMATS)
) -> str:
    """Return the media type of answered audio: of ``format`` if given, or as `negotiate` does."""
    return negotiate(accept if format is None else MEDIA_TYPES[format], offers)


def audio_type(media: str, sample_rate: int) -> str:
    """Return the Content-Type of answered audio: samples without a header need their rate."""
    return f"{media};rate={sample_rate};channels=1" if media == MEDIA_TYPES["pcm"] else media


def negotiate(accept: str | None, offers: Sequence[str]) -> str:
    """Return the offer that an Accept header prefers; the first offer wins ties.

    Follows RFC 9110, section 12.5.1: the most specific range that matches an offer decides its
    quality.

    Raises
    ------
    NotAcceptableError
        If the client accepts none of them.
    """
    ranges = _parse(accept) if accept and accept.strip() else [_Range("*/*", 1.0)]

    if not ranges:
        raise NotAcceptableError(f"this call answers {', '.join(offers)}, not {accept!r:.200}")

    def quality(offer: str) -> float:
        closest = max(ranges, key=lambda item: item.specificity(offer))
        return closest.quality if closest.specificity(offer) else 0.0

    best = max(offers, key=quality)
    if quality(best) <= 0:
        raise NotAcceptableError(f"this call answers {', '.join(offers)}, not {accept!r:.200}")
    return best


def _parse(accept: str) -> list[_Range]:
    ranges = []
    # More ranges than any client has reasons for are not weighed.
    for part in filter(str.strip, accept.split(",")[:MAX_RANGES]):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality(value.strip())
        ranges.append(_Range(_ALIASES.get(media, media), quality))
    return ranges


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0

"""Ogg (RFC 3533): the one audio stream of each link of a chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import BinaryIO

from snac_core.audio import flac, opus
from snac_core.audio.byte_view import Piece, Stretch, read_at, view
from snac_core.audio.ogg_pages import FIRST, Page, pages_of, whole
from snac_core.audio.part import NotSupportedError, Part
from snac_core.errors import AudioError

_CODECS = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus", b"\x7fFLAC": "FLAC", b"Speex   ": "Speex"}


@dataclasses.dataclass
class Link:
    """The pages of one audio stream of a chain; other streams beside it are left out."""

    codec: str
    serial: int
    pages: list[Page] = dataclasses.field(default_factory=list)


def normalise(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return the audio of each link of an Ogg file, as libsndfile is to read it.

    Raises
    ------
    AudioError
        For pages that are damaged, missing or cut.
    NotSupportedError
        For a codec that libsndfile does not read.
    """
    links = list(_links(raw, start, end))
    if not links:
        raise NotSupportedError("Ogg without Opus, Vorbis, FLAC or Speex")
    for link in links:
        if link.codec == "Speex":
            raise NotSupportedError("Speex in Ogg", "ogg")
        if link.codec != links[0].codec:
            raise AudioError(f"the Ogg is a chain of {links[0].codec} and {link.codec}")
    if links[0].codec == "Opus":
        return opus.normalise(raw, [link.pages for link in links])
    if links[0].codec == "FLAC":
        return [part for link in links for part in _native_flac(raw, link.pages)]
    return [Part(view(raw, whole(link.pages))) for link in links]


def _native_flac(raw: BinaryIO, pages: list[Page]) -> list[Part]:
    """Ogg FLAC is FLAC in packets, behind 9 bytes: https://xiph.org/flac/ogg_mapping.html."""
    bodies: list[Piece] = [Stretch(page.body, page.end) for page in pages]
    first = pages[0]
    bodies[0] = Stretch(first.body + 9, first.end)
    file = view(raw, bodies)
    size = sum(page.end - page.body for page in pages) - 9
    return flac.normalise(file, 0, size)


def _links(raw: BinaryIO, start: int, end: int) -> Iterator[Link]:
    """Yield the links that have an audio stream."""
    link: Link | None = None
    beginning = True
    for page in pages_of(raw, start, end):
        if page.flags & FIRST:
            if not beginning:
                if link:
                    yield link
                link = None
            beginning = True
            head = read_at(raw, page.body, 8)
            codec = next((name for magic, name in _CODECS.items() if head.startswith(magic)), None)
            if codec and link is None:
                link = Link(codec, page.serial)
        else:
            beginning = False
        if link and page.serial == link.serial:
            previous = link.pages[-1] if link.pages else page
            # A live stream's first page of audio may have any number.
            if page.sequence - previous.sequence > 1 and previous.granule > 0:
                raise AudioError(
                    f"the Ogg lacks pages {previous.sequence + 1} to {page.sequence - 1}, before "
                    f"byte {page.start}"
                )
            link.pages.append(page)
    if link:
        yield link

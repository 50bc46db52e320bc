"""Opus in Ogg (RFC 7845): each page's time is that of its packets, counted from zero.

Remuxed and live streams begin at another time than zero. libsndfile then takes what is to be
left out at the start, the pre-skip, for a part of the audio; players do not.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from snac_core.audio.byte_view import Piece, Stretch, read_at, view
from snac_core.audio.ogg_pages import Page, rewritten, whole
from snac_core.audio.part import Part
from snac_core.errors import AudioError

FULL_RATE = 48000
"""Hz in which Opus counts samples."""

_KNOWN_RATES = (8000, 12000, 16000, 24000, 48000)
# Samples of a frame by the five bits of a packet's configuration (RFC 6716, table 2).
_FRAME_SAMPLES = (*(480, 960, 1920, 2880) * 3, *(480, 960) * 2, *(120, 240, 480, 960) * 4)


def packet_samples(head: bytes) -> int:
    """Return the samples at 48 kHz in the packet that begins with the bytes ``head``."""
    if not head:
        return 0
    frames = (1, 2, 2)[head[0] & 3] if head[0] & 3 < 3 else (head[1:2] or b"\0")[0] & 63
    return int(_FRAME_SAMPLES[head[0] >> 3] * frames)


def normalise(raw: BinaryIO, links: list[list[Page]]) -> list[Part]:
    """Return each link as libsndfile is to read it, all of one sample rate.

    Raises
    ------
    AudioError
        For a header that is not Opus's, or without packets.
    """
    rates = {_input_rate(raw, pages) for pages in links}
    rate = rates.pop() if len(rates) == 1 else FULL_RATE
    return [_normalise(raw, pages, rate or FULL_RATE) for pages in links]


def _input_rate(raw: BinaryIO, pages: list[Page]) -> int:
    head = read_at(raw, pages[0].body, pages[0].end - pages[0].body)
    if len(head) < 19:
        raise AudioError(f"the Opus header has {len(head)} bytes and should have 19")
    return int.from_bytes(head[12:16], "little")


def _normalise(raw: BinaryIO, pages: list[Page], rate: int) -> Part:
    head = bytearray(read_at(raw, pages[0].body, pages[0].end - pages[0].body))
    counts, first = _samples_of_pages(raw, pages)
    if first == len(pages):
        raise AudioError("the audio has a header and no samples")
    right, end = [], 0
    for count in counts[first:]:
        end += count
        right.append(end)
    said = [page.granule for page in pages[first:]]
    known = [number for number, granule in enumerate(said) if granule >= 0 and right[number]]
    if not known:
        raise AudioError("the Opus has no page that says its time")
    # The first page may end early if it is the last; any other says at which time all began.
    begin = said[known[0]] - right[known[0]]
    if known[0] == len(said) - 1:
        begin = max(0, begin)
    right[-1] = min(right[-1], said[-1] - begin) if said[-1] >= 0 else right[-1]
    samples = right[-1] - int.from_bytes(head[10:12], "little")
    if samples <= 0:
        raise AudioError("the audio has a header and no samples")
    pieces = whole(pages)
    if said != right:
        # Of a page on which no packet ends, the time is -1.
        new = [
            time if counts[first + number] or number == len(right) - 1 else -1
            for number, time in enumerate(right)
        ]
        later = [rewritten(raw, page, time) for page, time in zip(pages[first:], new, strict=True)]
        pieces = [*whole(pages[:first]), b"".join(later)]
    if struct.unpack_from("<I", head, 12)[0] != rate:
        struct.pack_into("<I", head, 12, rate)
        pieces = [rewritten(raw, pages[0], 0, bytes(head)), *_without(pieces, pages[0])]
    # libsndfile decodes to the input's rate if Opus knows it, and else to the next that it does.
    out = next((known for known in _KNOWN_RATES if known >= rate), FULL_RATE)
    return Part(view(raw, pieces), least=samples * out // FULL_RATE - 1)


def _without(pieces: list[Piece], page: Page) -> list[Piece]:
    first = pieces[0]
    assert isinstance(first, Stretch)
    return [Stretch(page.end, first.end), *pieces[1:]]


def _samples_of_pages(raw: BinaryIO, pages: list[Page]) -> tuple[list[int], int]:
    """Return the samples in the packets that end on each page, and the first page of audio."""
    counts: list[int] = []
    headers, first, head, open_packet = 2, len(pages), b"", False
    for number, page in enumerate(pages):
        data = read_at(raw, page.body, page.end - page.body)
        at = begin = count = 0
        if headers == 0 and first == len(pages):
            first = number
        for lace in page.lacing:
            if not open_packet:
                begin, open_packet, head = at, True, b""
            at += lace
            if len(head) < 2:
                head += data[begin : min(at, begin + 2 - len(head))]
                begin = min(at, begin + 2)
            if lace < 255:
                open_packet = False
                if headers:
                    headers -= 1
                else:
                    count += packet_samples(head)
        begin = 0
        counts.append(count)
    return counts, first

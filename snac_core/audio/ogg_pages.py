"""Pages of Ogg (RFC 3533): found, checked, and rewritten."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from snac_core.audio.byte_view import BLOCK_BYTES, Piece, Stretch, read_at
from snac_core.audio.tags import skip_tags
from snac_core.errors import AudioError

FIRST, LAST = 2, 4
"""Flags of a stream's first and last page."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """A page of a file: where its head, body and end are, and what the head says."""

    start: int
    body: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    lacing: bytes


def checksum(data: bytes) -> int:
    """Return the CRC of a page whose own field of it is zero (polynomial 0x04C11DB7)."""
    # zlib's has the same polynomial with the bits of each byte in the other order.
    crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def whole(pages: list[Page]) -> list[Piece]:
    """Return pages as they are, neighbours as one stretch."""
    stretches: list[Piece] = []
    begin, end = pages[0].start, pages[0].end
    for page in pages[1:]:
        if page.start != end:
            stretches.append(Stretch(begin, end))
            begin = page.start
        end = page.end
    return [*stretches, Stretch(begin, end)]


def rewritten(raw: BinaryIO, page: Page, granule: int, body: bytes | None = None) -> bytes:
    """Return a page with another granule position, and another body of the same size."""
    data = bytearray(read_at(raw, page.start, page.end - page.start))
    struct.pack_into("<q", data, 6, granule)
    if body is not None:
        data[page.body - page.start :] = body
    data[22:26] = bytes(4)
    struct.pack_into("<I", data, 22, checksum(bytes(data)))
    return bytes(data)


def pages_of(raw: BinaryIO, start: int, end: int) -> Iterator[Page]:
    """Yield the pages of a file; tags, zeros and, at its end, other junk are left out."""
    at, complete = start, False
    while at < end:
        page = _page(raw, at, end)
        if page is None:
            following = _next_page(raw, at, end)
            if following is None:
                rest = read_at(raw, at, min(end - at, BLOCK_BYTES))
                if not complete and rest.strip(b"\0") and skip_tags(raw, at, end) < end:
                    raise AudioError(
                        f"the Ogg is cut short: its last page, at byte {at}, is broken"
                    )
                return
            gap = read_at(raw, at, min(following - at, BLOCK_BYTES))
            if gap.strip(b"\0") and skip_tags(raw, at, following) < following:
                raise AudioError(f"the Ogg is damaged: no whole page is at byte {at}")
            at = following
            continue
        complete = bool(page.flags & LAST)
        yield page
        at = page.end


def _page(raw: BinaryIO, at: int, end: int) -> Page | None:
    """Return the page at an offset; None if there is none, or one that is damaged or cut."""
    head = read_at(raw, at, min(27 + 255, end - at))
    if head[:5] != b"OggS\0" or len(head) < 27 or len(head) < 27 + head[26]:
        return None
    flags, granule, serial, sequence, crc, count = struct.unpack_from("<BqIIIB", head, 5)
    lacing = head[27 : 27 + count]
    body = at + 27 + count
    page = Page(at, body, body + sum(lacing), flags, granule, serial, sequence, lacing)
    if page.end > end:
        return None
    data = read_at(raw, at, page.end - at)
    if checksum(data[:22] + bytes(4) + data[26:]) != crc:
        return None
    return page


def _next_page(raw: BinaryIO, at: int, end: int) -> int | None:
    """Return where the next whole page begins."""
    searched = at + 1
    while searched < end:
        block = read_at(raw, searched, min(BLOCK_BYTES, end - searched))
        found = block.find(b"OggS")
        while found >= 0:
            if _page(raw, searched + found, end):
                return searched + found
            found = block.find(b"OggS", found + 1)
        if len(block) < BLOCK_BYTES:
            return None
        searched += len(block) - 3
    return None

"""FLAC (RFC 9639): read to its last frame, whatever length its header states."""

from __future__ import annotations

import re
from typing import BinaryIO

from snac_core.audio.byte_view import BLOCK_BYTES, Stretch, read_at, size_of, view
from snac_core.audio.part import Part
from snac_core.audio.tags import trim_tags

# The marker, and the head of a STREAMINFO block, which always comes first and has 34 bytes.
_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_SYNC = re.compile(rb"(?=\xff[\xf8\xf9])")
_TOTAL_SAMPLES = 21
"""Byte from whose low four bits on 36 bits are the number of samples; 0 if it is not known."""


def normalise(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return the FLAC between two offsets, or several that were joined."""
    starts = _starts(raw, start, end) or [start]
    ends = [*starts[1:], end]
    return [_normalise(raw, *pair) for pair in zip(starts, ends, strict=True)]


def plain(raw: BinaryIO) -> Part | None:
    """Return a FLAC as it is if its last frame ends where the header says that it does.

    Its middle is not looked at, so that one of two joined files of equal lengths is missed.
    None for any other file.
    """
    head = read_at(raw, 0, 26)
    if len(head) < 26 or not _BEGINNING.match(head):
        return None
    total = int.from_bytes(head[_TOTAL_SAMPLES:], "big") & (2**36 - 1)
    end = size_of(raw)
    largest = int.from_bytes(head[15:18], "big") or 2**16
    tail = read_at(raw, max(26, end - largest - 16), end)
    block = int.from_bytes(head[10:12], "big")
    starts = (match.start() for match in _SYNC.finditer(tail))
    ends = [_frame_end(tail[start : start + 18], block) for start in starts]
    if not total or max(filter(None, ends), default=0) != total:
        return None
    return Part(view(raw, [Stretch(0, end)]), least=total)


def _frame_end(data: bytes, block: int) -> int | None:
    """Return the number of samples up to the end of the frame whose header ``data`` begins with.

    None if it is no header. ``block`` is the length of frames that are all as long.
    """
    size_code, rate_code = data[2] >> 4, data[2] & 15 if len(data) > 4 else 0
    if len(data) < 6 or not size_code or rate_code == 15 or data[3] & 1 or data[3] >> 4 > 10:
        return None
    # The number is coded as in UTF-8, with up to seven bytes.
    ones = 8 - (data[4] ^ 0xFF).bit_length()
    if ones == 1 or ones == 8:
        return None
    length = max(1, ones)
    number = data[4] & (0x7F >> ones)
    for byte in data[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at = 4 + length
    wide = {6: 1, 7: 2}.get(size_code, 0)
    stated = int.from_bytes(data[at : at + wide], "big") + 1
    at += wide + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(data) or _crc8(data[:at]) != data[at]:
        return None
    if size_code == 1:
        stated = 192
    elif size_code < 6:
        stated = 576 << (size_code - 2)
    elif size_code > 7:
        stated = 256 << (size_code - 8)
    return (number if data[1] & 1 else number * block) + stated


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x107 if value & 0x80 else 0)) & 0x1FF
    return value & 0xFF


def _normalise(raw: BinaryIO, start: int, end: int) -> Part:
    end = trim_tags(raw, start, end)
    head = read_at(raw, start, 26)
    if len(head) < 26 or not _BEGINNING.match(head):
        return Part(view(raw, [Stretch(start, end)]))
    packed = int.from_bytes(head[_TOTAL_SAMPLES:], "big")
    unknown = (packed & ~(2**36 - 1)).to_bytes(5, "big")
    # libsndfile stops at the number that is stated; without one, the file's end is the end.
    file = view(raw, [head[:_TOTAL_SAMPLES] + unknown, Stretch(start + 26, end)])
    return Part(file, least=packed & (2**36 - 1) or None)


def _starts(raw: BinaryIO, start: int, end: int) -> list[int]:
    """Return where FLAC files begin, one behind the other."""
    starts, at = [], start
    while at < end:
        block = read_at(raw, at, min(BLOCK_BYTES, end - at))
        starts += [at + match.start() for match in _BEGINNING.finditer(block)]
        at += max(1, len(block) - 7) if at + len(block) < end else len(block)
    return sorted(set(starts))

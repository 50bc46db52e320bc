"""FLAC (RFC 9639): read to its last frame, whatever length its header states."""

from __future__ import annotations

import re
from typing import BinaryIO

from snac_core.audio.byte_view import BLOCK_BYTES, Stretch, read_at, view
from snac_core.audio.part import Part
from snac_core.audio.tags import trim_tags

# The marker, and the head of a STREAMINFO block, which always comes first and has 34 bytes.
_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_TOTAL_SAMPLES = 21
"""Byte from whose low four bits on 36 bits are the number of samples; 0 if it is not known."""


def normalise(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return the FLAC between two offsets, or several that were joined."""
    starts = _starts(raw, start, end) or [start]
    ends = [*starts[1:], end]
    return [_normalise(raw, *pair) for pair in zip(starts, ends, strict=True)]


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

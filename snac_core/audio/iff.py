"""AIFF, CAF and AU: sizes that their writers did not know when they wrote the header."""

from __future__ import annotations

import struct
from typing import BinaryIO

from snac_core.audio.byte_view import Piece, Stretch, read_at, view
from snac_core.audio.part import NotSupportedError, Part
from snac_core.audio.riff import is_placeholder
from snac_core.audio.tags import trim_tags
from snac_core.errors import AudioError

_CAF_ENCODINGS = (b"lpcm", b"alac", b"ulaw", b"alaw")


def normalise_aiff(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return an AIFF or AIFC file with the size of the samples that are there."""
    end = trim_tags(raw, start, end)
    at = start + 12
    common: tuple[int, bytes] | None = None
    while at + 8 <= end:
        name, size = struct.unpack(">4sI", read_at(raw, at, 8))
        body = at + 8
        if name == b"COMM":
            common = body, read_at(raw, body, 18)
        elif name == b"SSND" and common is not None and len(common[1]) >= 8:
            there = end - body
            if size > there and not is_placeholder(size):
                raise AudioError(f"the audio is cut short: {there} of {size} bytes are there")
            if size > there or (size <= 8 and there > 8):
                channels, _, bits = struct.unpack_from(">HIH", common[1])
                block = max(1, channels * ((bits + 7) // 8))
                frames = (there - 8) // block
                pieces: list[Piece] = [
                    b"FORM" + struct.pack(">I", end - start - 8),
                    Stretch(start + 8, common[0] + 2),
                    struct.pack(">I", frames),
                    Stretch(common[0] + 6, at + 4),
                    struct.pack(">I", there),
                    Stretch(body, end),
                ]
                return [Part(view(raw, pieces))]
            if at < common[0]:
                break
        at = body + size + size % 2
    return [Part(view(raw, [Stretch(start, end)]))]


def normalise_caf(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return a CAF file with the size of the samples that are there.

    Raises
    ------
    NotSupportedError
        For an encoding that libsndfile does not read.
    """
    at = start + 8
    while at + 12 <= end:
        name, size = struct.unpack(">4sq", read_at(raw, at, 12))
        if name == b"desc":
            codec = read_at(raw, at + 20, 4)
            if codec not in _CAF_ENCODINGS:
                words = codec.decode("ascii", "replace").strip()
                raise NotSupportedError(f"CAF with the encoding {words!r}", "caf")
        if name == b"data":
            there = end - at - 12
            if size > there and not is_placeholder(size):
                raise AudioError(f"the audio is cut short: {there} of {size} bytes are there")
            if size < 0 or size > there:
                known = struct.pack(">q", there)
                pieces: list[Piece] = [Stretch(start, at + 4), known, Stretch(at + 12, end)]
                return [Part(view(raw, pieces))]
            break
        at += 12 + max(0, size)
    return [Part(view(raw, [Stretch(start, end)]))]


def normalise_au(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return an AU file whose header says the size of all that follows it."""
    end = trim_tags(raw, start, end)
    order = ">" if read_at(raw, start, 4) == b".snd" else "<"
    head = read_at(raw, start, 16)
    if len(head) < 16:
        return [Part(view(raw, [Stretch(start, end)]))]
    offset, size = struct.unpack_from(order + "II", head, 4)
    there = end - start - offset
    if there > 0 and size > there and not is_placeholder(size):
        raise AudioError(f"the audio is cut short: {there} of {size} bytes are there")
    if there <= 0 or size == there:
        return [Part(view(raw, [Stretch(start, end)]))]
    known = struct.pack(order + "I", there)
    return [Part(view(raw, [head[:8], known, Stretch(start + 12, end)]))]

"""WAV in all its forms (RIFF, RIFX, RF64, BW64, W64): the samples that are there.

Headers of writers that stream, were stopped, or wrote the size of a first chunk only, do not say
how much there is. libsndfile gets a header that does.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from typing import BinaryIO

from snac_core.audio import mpeg
from snac_core.audio.byte_view import Piece, Stretch, read_at, view
from snac_core.audio.part import NotSupportedError, Part
from snac_core.audio.tags import skip_tags, tag_size, trim_tags
from snac_core.errors import AudioError

FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")

_W64_KIND = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_FLOATING_TAG, _EXTENSIBLE, _GSM = 3, 0xFFFE, 0x31
_READ_TAGS = {1, 2, 3, 6, 7, 0x11, 0x14, 0x31, 0x38, 0x40}
_MPEG_TAGS = {0x50, 0x55}
_OTHER_TAGS = {
    0x22: "TrueSpeech",
    0x42: "G.723.1",
    0x64: "G.726",
    0x65: "G.722",
    0x28F: "G.722",
    0x83: "G.729",
    0xFF: "AAC",
    0x1600: "AAC",
    0x1610: "AAC",
    0x160: "WMA",
    0x161: "WMA",
    0x162: "WMA",
    0x2000: "AC-3",
    0x2001: "DTS",
    0xA109: "Speex",
}
_IDENTIFIER = re.compile(rb"[A-Za-z0-9_ ][A-Za-z0-9_ .\-]{3}", re.DOTALL)


@dataclasses.dataclass
class _Wave:
    """The chunks of one file that matter."""

    order: str
    format: bytes = b""
    data: list[Stretch] = dataclasses.field(default_factory=list)
    end: int = 0
    """Where the file ends."""

    @property
    def tag(self) -> int:
        """Number of the encoding."""
        tag = int(struct.unpack_from(self.order + "H", self.format)[0])
        if tag == _EXTENSIBLE and len(self.format) >= 26:
            tag = int(struct.unpack_from(self.order + "H", self.format, 24)[0])
        return tag

    @property
    def align(self) -> int:
        """Bytes of a block."""
        return max(1, int(struct.unpack_from(self.order + "H", self.format, 12)[0]))


def normalise(raw: BinaryIO, start: int, end: int) -> list[Part]:
    """Return the WAV between two offsets, or several that were joined.

    Raises
    ------
    AudioError
        For what was cut short, or has no samples.
    NotSupportedError
        For an encoding that libsndfile does not read.
    """
    parts: list[Part] = []
    end = trim_tags(raw, start, end)
    while start < end:
        head = read_at(raw, start, 16)
        if head[:4] in FORMS and head[8:12] == b"WAVE":
            wave = _chunks(raw, start, end)
        elif head == W64:
            wave = _w64_chunks(raw, start, end)
        else:
            break
        if len(wave.format) < 16 or not wave.data:
            # libsndfile says what is wrong with it.
            parts.append(Part(view(raw, [Stretch(start, end)])))
            break
        parts.append(_part(raw, wave))
        start = skip_tags(raw, wave.end, end)
    return parts


def is_placeholder(size: int, block: int = 1) -> bool:
    """Return whether a size is one that writers put where the true one is not known yet."""
    round_number = size >= 10**9 and (size % 10**6 == 0 or size // block % 10**6 == 0)
    return size >= 0x7FFF0000 - 2**16 or round_number or (size >= 2**30 and size % 2**20 < 2**12)


def _part(raw: BinaryIO, wave: _Wave) -> Part:
    size = sum(stretch.end - stretch.start for stretch in wave.data)
    if not size:
        raise AudioError("the audio has a header and no samples")
    if wave.tag in _MPEG_TAGS:
        # A frame may begin in one chunk and end in the next.
        inner = view(raw, wave.data)
        at = mpeg.find_first_frame(inner, 0, size)
        if at is None:
            raise AudioError("the WAV should hold MPEG audio and has no frame of it")
        return mpeg.normalise(inner, at, size)
    if wave.tag not in _READ_TAGS:
        name = _OTHER_TAGS.get(wave.tag, f"the encoding {wave.tag:#06x}")
        raise NotSupportedError(f"{name} in WAV", "wav")
    tail, most = b"", None
    if wave.tag == _GSM and wave.align == 65:
        # A block is two GSM frames of 160 samples, of which the last block may have one only.
        blocks, rest = divmod(size, 65)
        size = blocks * 65
        most = blocks * 320
        if rest >= 33:
            size, tail, most = size + 65, bytes(65 - rest), most + 160
    data = _limited(wave.data, size - len(tail))
    return Part(view(raw, [_header(wave, size), *data, tail]), most=most)


def _limited(data: list[Stretch], size: int) -> list[Piece]:
    pieces: list[Piece] = []
    for start, end in data:
        pieces.append(Stretch(start, min(end, start + size)))
        size -= min(size, end - start)
    return pieces


def _header(wave: _Wave, size: int) -> bytes:
    """Return what precedes the samples of a file that has nothing else."""
    order = wave.order
    chunk = struct.pack(order + "4sI", b"fmt ", len(wave.format)) + wave.format
    chunk += bytes(len(chunk) % 2)
    total = 4 + len(chunk) + 8 + size + size % 2
    if total < 2**32:
        form = b"RIFX" if order == ">" else b"RIFF"
        start = struct.pack(order + "4sI4s", form, total, b"WAVE")
        return start + chunk + struct.pack(order + "4sI", b"data", size)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, total + 36, size, size // wave.align, 0)
    start = struct.pack("<4sI4s", b"RF64", 2**32 - 1, b"WAVE")
    return start + sizes + chunk + struct.pack("<4sI", b"data", 2**32 - 1)


def _chunks(raw: BinaryIO, start: int, end: int) -> _Wave:
    form = read_at(raw, start, 4)
    wave = _Wave(">" if form == b"RIFX" else "<", end=end)
    long_size: int | None = None
    at = start + 12
    while at + 8 <= end:
        name, size = struct.unpack(wave.order + "4sI", read_at(raw, at, 8))
        body = at + 8
        if wave.data and (name in FORMS or tag_size(raw, at, end)):
            wave.end = at
            return wave
        if name == b"ds64":
            found = read_at(raw, body, 16)
            long_size = int.from_bytes(found[8:16], "little")
        elif name == b"fmt " and not wave.format:
            wave.format = read_at(raw, body, min(size, 4096))
        elif name == b"data" and len(wave.format) >= 16:
            if form in (b"RF64", b"BW64") and size == 2**32 - 1 and long_size is not None:
                size = long_size
            size = _data_size(raw, wave, body, size, end)
            wave.data.append(Stretch(body, body + size))
        elif wave.data and not _IDENTIFIER.fullmatch(name):
            break
        at = body + size
        if size % 2 and _follows(raw, at + 1, end, wave.order):
            at += 1
    return wave


def _data_size(raw: BinaryIO, wave: _Wave, body: int, declared: int, end: int) -> int:
    """Return how many bytes of samples there are, where a header declares some number."""
    there = end - body
    if not there:
        return 0
    if declared > there:
        if is_placeholder(declared, wave.align):
            return there
        raise AudioError(f"the audio is cut short: {there} of {declared} bytes are there")
    after = body + declared
    if _follows(raw, after, end, wave.order) or _follows(
        raw, after + declared % 2, end, wave.order
    ):
        return declared
    rest = read_at(raw, after, min(end - after, 2**16))
    if end - after < wave.align or (len(rest) == end - after and _is_text(rest)):
        return declared
    # Neither a chunk nor a tag: the header was written when there was less.
    return there


def _is_text(data: bytes) -> bool:
    text = data.strip(b"\0\r\n\t").decode("latin-1")
    return text.isascii() and text.isprintable()


def _follows(raw: BinaryIO, at: int, end: int, order: str) -> bool:
    """Return whether chunks, tags or nothing stand at an offset, up to the file's end."""
    while at + 8 <= end:
        if size := tag_size(raw, at, end):
            at += size
            continue
        name, size = struct.unpack(order + "4sI", read_at(raw, at, 8))
        if name in FORMS:
            return read_at(raw, at + 8, 4) == b"WAVE"
        if not _IDENTIFIER.fullmatch(name):
            return not any(read_at(raw, at, min(end - at, 2**16)))
        if at + 8 + size > end:
            # Of a placeholder, or cut: a name that begins a chunk of samples or of text.
            return name in (b"data", b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML")
        at += 8 + size
        if size % 2 and at < end and read_at(raw, at, 1) == b"\0":
            at += 1
    return True


def _w64_chunks(raw: BinaryIO, start: int, end: int) -> _Wave:
    wave = _Wave("<", end=end)
    at = start + 40
    while at + 24 <= end:
        head = read_at(raw, at, 24)
        name, size = head[:4], int.from_bytes(head[16:], "little")
        if head[4:16] != _W64_KIND:
            break
        body, length = at + 24, size - 24
        if name == b"fmt ":
            wave.format = read_at(raw, body, min(length, 4096))
        elif name == b"data" and len(wave.format) >= 16:
            there = end - body
            if length > there and not is_placeholder(length, wave.align):
                raise AudioError(f"the audio is cut short: {there} of {length} bytes are there")
            if length > there or length <= 0:
                length = there
            wave.data.append(Stretch(body, body + length))
        at = body + max(0, length) + -length % 8
    return wave

"""MPEG audio (MP1, MP2, MP3): frames counted, and a length header that is right.

libsndfile takes an MP3's length from its header or, where there is none, from the bitrate of its
first frame; what is there beyond that length is lost. Here every frame is found, and libsndfile
is given the frames alone behind a length header of our own.

The frame header is that of ISO/IEC 11172-3 and 13818-3; the length header is Xing's, with the
delay and padding that LAME added to it.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from typing import BinaryIO, NamedTuple

from snac_core.audio.byte_view import BLOCK_BYTES, Piece, Stretch, read_at, view
from snac_core.audio.part import Part
from snac_core.audio.tags import tag_size
from snac_core.errors import AudioError

SEARCHED_BYTES = 2**16
"""How far into a file the first frame may begin, tags and zeros apart."""

DECODER_DELAY = 529
"""Samples by which a decoder is late, which LAME's header leaves to be added (528 + 1)."""

# kbit/s by index, of layers I to III in MPEG-1, and of layer I and of II and III in MPEG-2.
_BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MOST_COPIES = 4096
_RATES = (44100, 48000, 32000)


class Header(NamedTuple):
    """What the four bytes at the start of a frame say."""

    layer: int
    mpeg1: bool
    sample_rate: int
    """Hz."""
    mono: bool
    length: int
    """Bytes of the frame, this header among them."""

    @property
    def samples(self) -> int:
        """Samples per channel in the frame."""
        if self.layer == 1:
            return 384
        return 1152 if self.mpeg1 or self.layer == 2 else 576

    @property
    def side_info(self) -> int:
        """Bytes of layer III's side information, behind which a length header stands."""
        if self.mpeg1:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


def parse_header(data: bytes) -> Header | None:
    """Return what the four bytes ``data`` say, or None if they are not a frame's header."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    bitrate, rate = data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = _RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1000 * _BITRATES[1 if version == 3 else 2, layer][bitrate - 1]
    padding = data[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (72 if version != 3 and layer == 3 else 144) * bits // hertz + padding
    return Header(layer, version == 3, hertz, data[3] >> 6 == 3, length)


@dataclasses.dataclass
class LengthHeader:
    """What a Xing, Info or VBRI frame says of the frames behind it."""

    frames: int | None
    delay: int = 0
    """Samples that the encoder added at the start."""
    padding: int = 0
    """Samples that it added at the end."""


def parse_length_header(frame: bytes, header: Header) -> LengthHeader | None:
    """Return the length header that ``frame`` is, or None if it holds sound."""
    if header.layer != 3:
        return None
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return LengthHeader(struct.unpack_from(">I", frame, 50)[0] or None)
    for at in (4 + header.side_info, 6 + header.side_info):
        if frame[at : at + 4] in (b"Xing", b"Info"):
            break
    else:
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    frames = int.from_bytes(frame[at + 8 : at + 12], "big") if flags & 1 else 0
    lame = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1)
    lame += 4 * (flags >> 3 & 1)
    found = LengthHeader(frames or None)
    if frame[lame : lame + 4] in (b"LAME", b"Lavf", b"Lavc") and len(frame) >= lame + 24:
        both = int.from_bytes(frame[lame + 21 : lame + 24], "big")
        found.delay, found.padding = both >> 12, both & 0xFFF
    return found


def make_length_header(first: bytes, length: LengthHeader) -> bytes:
    """Return a Xing frame for the sound that begins with the frame header ``first``."""
    frame = _empty_frame(first)
    header = parse_header(bytes(frame[:4]))
    assert header is not None
    at = 4 + header.side_info
    struct.pack_into(">4sII", frame, at, b"Xing", 1, length.frames or 0)
    if length.delay or length.padding:
        frame[at + 12 : at + 16] = b"LAME"
        both = length.delay << 12 | length.padding
        frame[at + 33 : at + 36] = both.to_bytes(3, "big")
    return bytes(frame)


def _empty_frame(first: bytes) -> bytearray:
    """Return a frame of silence, of the kind that ``first`` is the header of."""
    for bitrate in range(1, 15):
        data = bytes((0xFF, first[1] | 1, bitrate << 4 | first[2] & 0x0C, first[3]))
        header = parse_header(data)
        if header and header.length >= 128:
            break
    assert header is not None
    return bytearray(data.ljust(header.length, b"\0"))


def find_first_frame(raw: BinaryIO, start: int, end: int) -> int | None:
    """Return where the first frame begins; None if this is not MPEG audio.

    A frame is one that is followed by two of its kind, or by the end of the file.
    """
    while start < end:
        block = read_at(raw, start, min(BLOCK_BYTES, end - start))
        zeros = len(block) - len(block.lstrip(b"\0"))
        start += zeros
        if not block or zeros < len(block):
            break
    data = read_at(raw, start, min(SEARCHED_BYTES, end - start))
    for match in re.finditer(rb"\xff[\xe2-\xff]", data):
        if _begins_frames(raw, start + match.start(), end):
            return start + match.start()
    return None


def _begins_frames(raw: BinaryIO, at: int, end: int) -> bool:
    first: Header | None = None
    for _ in range(3):
        header = parse_header(read_at(raw, at, 4))
        if header is None:
            # A file of one frame, or one that ends with tags.
            return first is not None and (at >= end or tag_size(raw, at, end) > 0)
        if first is not None and header[:3] != first[:3]:
            return False
        first = header
        at += header.length
        if at >= end:
            return at == end or first is None
    return True


def normalise(raw: BinaryIO, start: int, end: int) -> Part:
    """Return the MPEG audio between two offsets as libsndfile is to read it.

    Raises
    ------
    AudioError
        For what is damaged, cut short, or several kinds of MPEG audio joined.
    """
    return _Frames(raw, start, end).part()


class _Frames:
    """All frames between two offsets of a file, of one kind, in the order of the file."""

    def __init__(self, raw: BinaryIO, start: int, end: int) -> None:
        self._raw, self._end = raw, end
        self._first = read_at(raw, start, 4)
        header = parse_header(self._first)
        assert header is not None
        self._header = header
        self._count = self._last_length = 0
        self._pieces: list[Stretch] = []
        self._length_headers: list[LengthHeader] = []
        # The second and third byte, of which protection, bitrate, padding and a private bit vary.
        self._pattern = re.compile(
            b"\xff"
            + _either(self._first[1] & 0xFE, 1)
            + b"["
            + b"".join(re.escape(bytes((self._first[2] & 0x0C | n,))) for n in _varying())
            + b"]",
            re.DOTALL,
        )
        self._walk(start)

    def _walk(self, at: int) -> None:
        while at < self._end:
            at = self._run(at)
            if at >= self._end:
                return
            found = self._next(at)
            if found is None:
                return
            at = found

    def _run(self, start: int) -> int:
        """Take frames that follow each other; return where they end."""
        lengths: dict[bytes, int] = {}
        kind, block_start, block = self._header[:4], start, b""
        at = begin = start
        while at + 4 <= self._end:
            if at + 4 > block_start + len(block):
                block_start, block = at, read_at(self._raw, at, BLOCK_BYTES)
            key = block[at - block_start : at - block_start + 4]
            length = lengths.get(key)
            if length is None:
                header = parse_header(key)
                length = header.length if header and header[:4] == kind else 0
                if header and not length and self._is_another_kind(at, header):
                    raise AudioError(
                        f"the MPEG audio changes at byte {at} from {_words(self._header)} to "
                        f"{_words(header)}: several files were joined"
                    )
                lengths[key] = length
            if not length or at + length > self._end:
                break
            if self._count == 0 or at == start:
                frame = read_at(self._raw, at, length)
                said = parse_length_header(frame, self._header)
                if said is not None:
                    self._length_headers.append(said)
                    if self._count == 0:
                        at += length
                        begin = at
                        self._first = self._first_of_sound(at)
                        continue
            at += length
            self._last_length = length
            self._count += 1
        if at > begin:
            self._pieces.append(Stretch(begin, at))
        return at

    def _first_of_sound(self, at: int) -> bytes:
        data = read_at(self._raw, at, 4)
        header = parse_header(data)
        return data if header and header[:4] == self._header[:4] else self._first

    def _is_another_kind(self, at: int, header: Header) -> bool:
        following = parse_header(read_at(self._raw, at + header.length, 4))
        return following is not None and following[:4] == header[:4]

    def _next(self, at: int) -> int | None:
        """Return where frames go on behind what is not one; None if they do not."""
        size = tag_size(self._raw, at, self._end)
        if size:
            return at + size
        gap, searched = at, at
        while searched < self._end:
            block = read_at(self._raw, searched, BLOCK_BYTES)
            for match in self._pattern.finditer(block):
                found = searched + match.start()
                if found > gap and self._goes_on(found):
                    self._check_gap(gap, found)
                    return found
            if len(block) < BLOCK_BYTES:
                break
            searched += len(block) - 4
        return None

    def _goes_on(self, at: int) -> bool:
        for _ in range(2):
            header = parse_header(read_at(self._raw, at, 4))
            if header is None or header[:4] != self._header[:4]:
                return False
            at += header.length
        return at <= self._end

    def _check_gap(self, start: int, end: int) -> None:
        """Zeros and tags may lie between frames; anything else was a frame."""
        junk = read_at(self._raw, start, min(end - start, BLOCK_BYTES))
        if not junk.strip(b"\0"):
            return
        tagged = re.search(rb"ID3[\x02-\x04]|TAG|APETAGEX|LYRICSBEGIN", junk)
        if tagged and not junk[: tagged.start()].strip(b"\0"):
            return
        header = parse_header(read_at(self._raw, start, 4))
        if header is not None and header[:4] == self._header[:4]:
            # The last frame of a file that was cut before another was joined to it.
            return
        seconds = self._count * self._header.samples / self._header.sample_rate
        raise AudioError(
            f"the MPEG audio is damaged after {seconds:.3f} s: bytes {start} to {end} are no frame"
        )

    def part(self) -> Part:
        """Return what libsndfile is to read, and how many samples that are."""
        header, count = self._header, self._count
        promised = sum(said.frames or 0 for said in self._length_headers)
        unsaid = any(said.frames is None for said in self._length_headers)
        # Some writers count the frame of their header as well.
        if promised and not unsaid and count + 2 * len(self._length_headers) < promised:
            total = header.samples / header.sample_rate
            raise AudioError(
                f"the MP3 ends after {count * total:.3f} of {promised * total:.3f} s: it is cut "
                "short"
            )
        if not count:
            raise AudioError("the audio has a header and no samples")
        first = self._length_headers[:1] or [LengthHeader(None)]
        last = self._length_headers[-1:] or [LengthHeader(None)]
        if header.layer != 3:
            file = view(self._raw, [*self._pieces, *self._more_frames()])
            return Part(file, least=count * header.samples, most=count * header.samples)
        delay, padding = first[0].delay, last[0].padding
        frames, silence = count, b""
        samples = count * header.samples
        if delay or padding:
            samples -= delay + DECODER_DELAY + max(0, padding - DECODER_DELAY)
        else:
            # libsndfile always leaves out the decoder's delay: it gets a frame of silence for it.
            delay, padding = header.samples - DECODER_DELAY, DECODER_DELAY
            frames, silence = count + 1, bytes(_empty_frame(self._first))
        if samples <= 0:
            raise AudioError("the audio has a header and no samples")
        length = make_length_header(self._first, LengthHeader(frames, delay, padding))
        file = view(self._raw, [length, silence, *self._pieces])
        return Part(file, least=samples, most=samples)

    def _more_frames(self) -> list[Piece]:
        """Layers I and II have no length header: libsndfile divides the size by a frame's.

        It is given copies of the last frame, so that it takes the sound for longer, not for
        shorter than it is.
        """
        last = self._pieces[-1]
        bytes_there = sum(piece.end - piece.start for piece in self._pieces)
        missing = (self._count + 4) * (self._header.length + 1) - bytes_there
        copies = max(4, -(-missing // self._last_length))
        if copies > MOST_COPIES:
            raise AudioError(
                f"the MPEG audio is of layer {self._header.layer} and of variable bit rate, which "
                "is not read; convert it to WAV or FLAC"
            )
        return [read_at(self._raw, last.end - self._last_length, self._last_length) * copies]


def _varying() -> list[int]:
    return [bitrate << 4 | low for bitrate in range(1, 15) for low in (0, 1, 2, 3)]


def _either(byte: int, bit: int) -> bytes:
    return b"[" + re.escape(bytes((byte,))) + re.escape(bytes((byte | bit,))) + b"]"


def _words(header: Header) -> str:
    return f"{header.sample_rate} Hz {'mono' if header.mono else 'stereo'}"

"""Tags that taggers put before, between and behind the audio of files of any format."""

from __future__ import annotations

from typing import BinaryIO

from snac_core.audio.byte_view import read_at

ID3V1_BYTES = 128


def tag_size(raw: BinaryIO, at: int, end: int) -> int:
    """Return the bytes of the tag that begins at ``at``: ID3v1 or v2, APEv2 or Lyrics3; or 0."""
    head = read_at(raw, at, min(32, end - at))
    size = 0
    if head[:3] == b"TAG" and end - at >= ID3V1_BYTES:
        size = ID3V1_BYTES
    elif head[:4] == b"TAG+" and end - at >= 227:
        size = 227
    elif head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80 and head[3] < 0xFF:
        # ID3v2: four bytes of seven bits, and a footer if a flag says so.
        size = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        size += 10 if head[5] & 0x10 else 0
    elif head[:8] == b"APETAGEX" and len(head) >= 32:
        # The size is without the header, which a flag tells from the footer.
        is_header = int.from_bytes(head[20:24], "little") & 2**29
        size = 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    elif head[:11] == b"LYRICSBEGIN":
        text = read_at(raw, at, min(end - at, 2**20))
        found = text.find(b"LYRICS200")
        size = found + 9 if found >= 0 else len(text)
    return min(size, end - at)


def skip_tags(raw: BinaryIO, at: int, end: int) -> int:
    """Return where tags that begin at ``at`` end."""
    while at < end and (size := tag_size(raw, at, end)):
        at += size
    return at


def trim_tags(raw: BinaryIO, start: int, end: int) -> int:
    """Return where the audio ends before tags at the end of a file."""
    while end - start > ID3V1_BYTES:
        if read_at(raw, end - ID3V1_BYTES, 3) == b"TAG":
            end -= ID3V1_BYTES
            continue
        footer = read_at(raw, end - 32, 32)
        if footer[:8] == b"APETAGEX":
            size = int.from_bytes(footer[12:16], "little")
            size += 32 if int.from_bytes(footer[20:24], "little") & 2**31 else 0
            if 32 <= size <= end - start:
                end -= size
                continue
        break
    return end

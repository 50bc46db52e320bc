"""A read-only file made of stretches of another file and of bytes, without copying them."""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias

BLOCK_BYTES = 2**20
"""Read at a time where a file is searched or walked through."""


class Stretch(NamedTuple):
    """Bytes ``start`` to ``end`` of the file beneath."""

    start: int
    end: int


Piece: TypeAlias = bytes | Stretch
"""What a `ByteView` is made of."""


class ByteView(io.RawIOBase):
    """A seekable file whose content is its pieces, one after the other.

    Parameters
    ----------
    raw
        The file that the stretches are of; it is not closed with the view.
    pieces
        Bytes, and `Stretch`\\ es of ``raw``.
    """

    def __init__(self, raw: BinaryIO, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._raw = raw
        self._pieces: list[Piece] = []
        self._starts: list[int] = []
        self._at = self._size = 0
        for piece in pieces:
            length = piece.end - piece.start if isinstance(piece, Stretch) else len(piece)
            if length > 0:
                self._pieces.append(piece)
                self._starts.append(self._size)
                self._size += length

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the position may lie past the end, where nothing is read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from the piece at the position; short at the end of a piece."""
        target = memoryview(buffer).cast("B")
        if self._at >= self._size or not target:
            return 0
        number = bisect.bisect_right(self._starts, self._at) - 1
        piece, offset = self._pieces[number], self._at - self._starts[number]
        if isinstance(piece, Stretch):
            self._raw.seek(piece.start + offset)
            data = self._raw.read(min(len(target), piece.end - piece.start - offset))
        else:
            data = piece[offset : offset + len(target)]
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


def view(raw: BinaryIO, pieces: Sequence[Piece]) -> BinaryIO:
    """Return a `ByteView` that reads whole blocks, across pieces."""
    return io.BufferedReader(ByteView(raw, pieces), 2**16)


def read_at(raw: BinaryIO, offset: int, size: int) -> bytes:
    """Return ``size`` bytes from ``offset``, fewer where the file ends."""
    raw.seek(offset)
    return raw.read(max(0, size))


def size_of(raw: BinaryIO) -> int:
    """Return the file's size in bytes."""
    return raw.seek(0, io.SEEK_END)

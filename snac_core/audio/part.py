"""What libsndfile is given in place of a file: a repaired stream, or several in a row."""

from __future__ import annotations

import dataclasses
from typing import BinaryIO

from snac_core.errors import AudioError


@dataclasses.dataclass(frozen=True)
class RawFormat:
    """The format of samples that have no header.

    Parameters
    ----------
    sample_rate
        Hz.
    channels
        How many are interleaved.
    subtype
        libsndfile's name of the encoding: PCM_16, FLOAT, ULAW or ALAW.
    big_endian
        Whether the first byte of a sample is its highest.
    """

    sample_rate: int
    channels: int = 1
    subtype: str = "PCM_16"
    big_endian: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """A stream that libsndfile reads as one.

    Parameters
    ----------
    file
        Open for reading, and seekable.
    least
        Samples per channel; fewer are an error. None if only the stream's own header says it.
    most
        Samples per channel beyond which the rest is left out; None for no limit.
    raw
        Its format if it has no header.
    """

    file: BinaryIO
    least: int | None = None
    most: int | None = None
    raw: RawFormat | None = None


class NotSupportedError(AudioError):
    """A recording of a known format that libsndfile does not read.

    Parameters
    ----------
    words
        The format's name, with an article, for messages.
    demuxer
        FFmpeg's name of the container; "" where the optional decoder may not read it either.
    """

    def __init__(self, words: str, demuxer: str = "") -> None:
        super().__init__(f"not readable as audio: {words} is not read")
        self.words, self.demuxer = words, demuxer

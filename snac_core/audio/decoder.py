"""What reads a recording block by block, whatever decodes it, and libsndfile doing so."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from snac_core.audio.containers import LIBSNDFILE_FORMATS
from snac_core.audio.part import Part
from snac_core.audio.quiet import quiet
from snac_core.errors import AudioError

BLOCK_SAMPLES = 2**17
"""Samples of all channels together that are decoded at a time."""

Block = npt.NDArray[np.float32]

UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says of a recording whose header does not tell its length."""

_UNKNOWN_BYTES = 0x7FFF0000
_DECLARED_BYTES = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


class Decoder(Protocol):
    """An open recording."""

    sample_rate: int
    """Hz."""
    channels: int
    frames: int | None
    """Samples per channel that there should be; None if nothing says it."""

    def blocks(self) -> Iterator[Block]:
        """Yield all samples, of shape (samples, channels); the next block overwrites the last.

        Raises
        ------
        AudioError
            Unless all of the recording is there.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class LibsndfileDecoder:
    """The parts of a recording, one after the other, decoded by libsndfile.

    Raises
    ------
    AudioError
        If libsndfile cannot read it, or its parts are of different rates or channels.
    """

    def __init__(self, parts: list[Part]) -> None:
        self._open = contextlib.ExitStack()
        self._parts = parts
        first = self._opened(parts[0])
        self.sample_rate: int = first.samplerate
        self.channels: int = first.channels
        self.frames = promised_frames(parts[0], first)
        if len(parts) > 1:
            # The others are opened in their turn.
            rest = [part.least for part in parts[1:]]
            known = [least for least in rest if least is not None]
            self.frames = (self.frames or 0) + sum(known)
        self._first = first

    def blocks(self) -> Iterator[Block]:
        """Yield the parts' samples; see `Decoder`."""
        done = 0
        for number, part in enumerate(self._parts):
            file = self._opened(part) if number else self._first
            if (file.samplerate, file.channels) != (self.sample_rate, self.channels):
                raise AudioError(
                    f"the recording changes after {done / self.sample_rate:.3f} s from "
                    f"{self.sample_rate} Hz and {self.channels} channels to {file.samplerate} Hz "
                    f"and {file.channels}: several files were joined"
                )
            for block in self._blocks(file, part, done):
                done += len(block)
                yield block
            self._open.close()

    def close(self) -> None:
        """Close what is open."""
        self._open.close()

    def _opened(self, part: Part) -> soundfile.SoundFile:
        self._stream, file = open_part(part, _SequentialFile)
        self._open.callback(file.close)
        return file

    def _blocks(self, file: soundfile.SoundFile, part: Part, done: int) -> Iterator[Block]:
        frames = 0
        promised = promised_frames(part, file)
        buffer = np.empty((max(1, BLOCK_SAMPLES // file.channels), file.channels), np.float32)
        while part.most is None or frames < part.most:
            most = len(buffer) if part.most is None else min(len(buffer), part.most - frames)
            try:
                with quiet():
                    block: Block = file.read(out=buffer[:most])
            except soundfile.LibsndfileError as error:
                self._stream.check()
                raise AudioError(
                    f"the audio is cut short or damaged after "
                    f"{(done + frames) / self.sample_rate:.3f} s: {error.error_string}"
                ) from None
            self._stream.check()
            if not len(block):
                break
            frames += len(block)
            yield block
        if not frames:
            raise AudioError("the audio has a header and no samples")
        if promised is not None and frames < promised:
            raise AudioError(f"the audio is cut short: {frames} of {promised} samples are there")
        for declared, actual in _DECLARED_BYTES.findall(file.extra_info):
            if int(actual) < int(declared) < _UNKNOWN_BYTES:
                raise AudioError(f"the audio is cut short: {actual} of {declared} bytes are there")


def open_part(
    part: Part, kind: type[soundfile.SoundFile] = soundfile.SoundFile
) -> tuple[LibsndfileStream, soundfile.SoundFile]:
    """Open a part with libsndfile; return what it reads from, and the sound file.

    Raises
    ------
    AudioError
        If libsndfile cannot read it.
    """
    stream = LibsndfileStream(part.file)
    options = {}
    if part.raw:
        options = {
            "samplerate": part.raw.sample_rate,
            "channels": part.raw.channels,
            "format": "RAW",
            "subtype": part.raw.subtype,
            "endian": "BIG" if part.raw.big_endian else "LITTLE",
        }
    try:
        with quiet():
            file = kind(stream, **options)
    except soundfile.LibsndfileError as error:
        stream.check()
        raise AudioError(f"not readable as audio: {error.error_string}") from None
    if file.format not in LIBSNDFILE_FORMATS:
        file.close()
        raise AudioError(f"not readable as audio: the format {file.format} is not read")
    return stream, file


def promised_frames(part: Part, file: soundfile.SoundFile) -> int | None:
    """Return the samples per channel that a part should have; None if nothing says it."""
    if part.least is not None:
        return part.least
    promised = int(file.frames)
    if promised == UNKNOWN_FRAMES:
        return None
    return promised if part.most is None else min(promised, part.most)


class LibsndfileStream:
    """A file for libsndfile's callbacks, out of which no exception can be raised."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._error: OSError | None = None
        self.size = raw.seek(0, io.SEEK_END)
        raw.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, not before the start."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._raw.tell(), io.SEEK_END: self.size}[whence]
        return self._raw.seek(max(0, start + offset))

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def read(self, size: int) -> bytes:
        """Return the next bytes; after an error, which is kept, no bytes."""
        try:
            return self._raw.read(size)
        except OSError as error:
            self._error = error
            return b""

    def check(self) -> None:
        """Raise what went wrong while libsndfile was reading."""
        if self._error is not None:
            raise self._error


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is only ever read forwards.

    After every block SoundFile seeks to where it already is unless it thinks that it cannot
    seek; that fails for a FLAC of unknown length.
    """

    def seekable(self) -> bool:
        return False

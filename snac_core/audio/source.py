"""A recording read forwards through libsndfile, block by block, and checked to its end."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from snac_core.audio.samples import check_sample_rate
from snac_core.errors import AudioError, AudioTooLongError

MAX_CHANNELS = 64
BLOCK_SAMPLES = 2**17
USUAL_RATE = 96_000
"""Samples per second, of all channels together, of the richest recordings of full length."""

_UNKNOWN_FRAMES = 2**63 - 1
# Writers that stream put a size near the field's limit where the true one is not known yet.
_UNKNOWN_BYTES = 0x7FFF0000
_DECLARED_BYTES = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


class SoundSource:
    """An open recording; a context manager.

    Parameters
    ----------
    source
        The bytes of a file, an open binary file (read from its start), or a path.
    max_seconds
        Longest recording to accept, by its header and by what is decoded. All channels
        together may have so many seconds of `USUAL_RATE`, which is 48 kHz in stereo.

    Attributes
    ----------
    sample_rate
        Hz.
    channels
        How many there are.
    frames
        Samples per channel that the header promises; None where it does not say.

    Raises
    ------
    AudioError, AudioTooLongError, OSError
        As ``snac_core.audio.read`` does.
    """

    def __init__(
        self, source: bytes | BinaryIO | str | Path, max_seconds: float | None = None
    ) -> None:
        self._max_seconds = max_seconds
        with contextlib.ExitStack() as stack:
            self._stream = _Stream(_opened(source, stack))
            if not self._stream.size:
                raise AudioError("the audio is empty: 0 bytes")
            try:
                self._file = stack.enter_context(_SequentialFile(self._stream))
            except soundfile.LibsndfileError as error:
                self._stream.check()
                raise AudioError(f"not readable as audio: {error.error_string}") from None
            self.sample_rate: int = self._file.samplerate
            self.channels: int = self._file.channels
            promised = self._file.frames
            self.frames: int | None = promised if promised != _UNKNOWN_FRAMES else None
            check_sample_rate(self.sample_rate)
            if not 1 <= self._file.channels <= MAX_CHANNELS:
                raise AudioError(f"{self._file.channels} channels are outside 1..{MAX_CHANNELS}")
            self._check_length(self.frames or 0)
            self._open = stack.pop_all()

    def __enter__(self) -> SoundSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def mono_blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield all samples, channels averaged, then make sure that there were no more."""
        file, frames = self._file, 0
        buffer = np.empty((max(1, BLOCK_SAMPLES // file.channels), file.channels), np.float32)
        while True:
            try:
                block = file.read(out=buffer)
            except soundfile.LibsndfileError as error:
                self._stream.check()
                raise AudioError(
                    f"the audio is cut short or damaged after {frames / self.sample_rate:.3f} s: "
                    f"{error.error_string}"
                ) from None
            self._stream.check()
            if not len(block):
                break
            with np.errstate(over="ignore", invalid="ignore"):
                # Column by column: mean(axis=1) of few columns is twenty times slower.
                mono: npt.NDArray[np.float32] = sum(block.T) / np.float32(file.channels)
            if not np.isfinite(mono).all():
                index = int(np.flatnonzero(~np.isfinite(mono))[0])
                raise AudioError(
                    f"sample {frames + index} ({(frames + index) / self.sample_rate:.3f} s) is "
                    f"{block[index].tolist()}, which is not finite"
                )
            frames += len(block)
            self._check_length(frames)
            yield mono
        if not frames:
            raise AudioError("the audio has a header and no samples")
        self._check_complete(frames)

    def _check_length(self, frames: int) -> None:
        if self._max_seconds is None:
            return
        if frames > self._max_seconds * self.sample_rate:
            raise AudioTooLongError(
                f"the audio lasts at least {frames / self.sample_rate:.3f} s; at most "
                f"{self._max_seconds:g} s are read"
            )
        # Silence of many channels at a high rate is a small file and minutes of work.
        if frames * self.channels > self._max_seconds * USUAL_RATE:
            raise AudioTooLongError(
                f"the audio has at least {frames * self.channels} samples in its "
                f"{self.channels} channels of {self.sample_rate} Hz; at most "
                f"{self._max_seconds * USUAL_RATE:.0f} are read"
            )

    def _check_complete(self, frames: int) -> None:
        """Refuse what was cut short, and what libsndfile takes for shorter than it is."""
        log, seconds = self._file.extra_info, frames / self.sample_rate
        promised = self.frames or frames
        if self._file.format == "MP3":
            self._check_complete_mp3(frames, promised)
        elif frames < promised:
            raise AudioError(f"the audio is cut short: {frames} of {promised} samples are there")
        for declared, actual in _DECLARED_BYTES.findall(log):
            if int(actual) < int(declared) < _UNKNOWN_BYTES:
                raise AudioError(f"the audio is cut short: {actual} of {declared} bytes are there")
        # A writer that was stopped leaves whole pages; a file that was cut ends within one.
        if "End-Of-Stream" in log and "Junk after the last page" in log:
            raise AudioError(f"the Ogg is cut short: its last page, at {seconds:.3f} s, is broken")

    def _check_complete_mp3(self, frames: int, promised: int) -> None:
        """Without a length header libsndfile guesses an MP3's length from its first frame."""
        seconds = frames / self.sample_rate
        if promised - frames > max(2304, promised // 100):
            raise AudioError(
                f"the MP3 ends after {seconds:.3f} of {promised / self.sample_rate:.3f} s: it is "
                "cut short, or of variable bit rate without a length header"
            )
        left = self._stream.size - self._stream.tell()
        start = self._stream.read(2)
        if left > 4096 and start[0] == 0xFF and start[1] >= 0xE0:
            raise AudioError(
                f"the MP3's header says that it ends after {seconds:.3f} s, and {left} bytes of "
                "audio follow: its length header is wrong or missing, or several MP3s are joined"
            )


class _Stream:
    """A file for libsndfile's callbacks, out of which no exception can be raised."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._error: OSError | None = None
        self.size = raw.seek(0, io.SEEK_END)
        raw.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._raw.tell(), io.SEEK_END: self.size}[whence]
        return self._raw.seek(max(0, start + offset))

    def tell(self) -> int:
        return self._raw.tell()

    def read(self, size: int) -> bytes:
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


def _opened(source: bytes | BinaryIO | str | Path, stack: contextlib.ExitStack) -> BinaryIO:
    if isinstance(source, (str, Path)):
        return stack.enter_context(Path(source).open("rb"))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    return source if source.seekable() else io.BytesIO(source.read())

"""A recording read forwards, block by block, mixed to one channel, and checked to its end."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from snac_core.audio import media
from snac_core.audio.channels import Channel, Energy, check_channel
from snac_core.audio.containers import parts_of
from snac_core.audio.decoder import BLOCK_SAMPLES, Block, Decoder, LibsndfileDecoder
from snac_core.audio.part import NotSupportedError, Part, RawFormat
from snac_core.audio.samples import MAX_PEAK, check_sample_rate
from snac_core.errors import AudioError, AudioTooLongError
from snac_core.types import Samples

__all__ = ["BLOCK_SAMPLES", "MAX_CHANNELS", "USUAL_RATE", "SoundSource"]

MAX_CHANNELS = 64
USUAL_RATE = 96_000
"""Samples per second, of all channels together, of the richest recordings of full length."""


class SoundSource:
    """An open recording; a context manager.

    Parameters
    ----------
    source
        The bytes of a file, an open binary file (read from its start), or a path.
    max_seconds
        Longest recording to accept, by its header and by what is decoded. All channels
        together may have so many seconds of `USUAL_RATE`, which is 48 kHz in stereo.
    channel
        Which channel `mono_blocks` yields. ``loudest`` decodes the recording twice.
    raw
        The format of a recording without a header.
    hold
        Told how many bytes more, or fewer, a process that decodes may have; what it raises ends
        the reading.

    Attributes
    ----------
    sample_rate
        Hz.
    channels
        How many there are.
    frames
        Samples per channel that there should be; None if nothing says it.
    warning
        After all of `mono_blocks`: a warning about the channels, or None.

    Raises
    ------
    AudioError, AudioTooLongError, OSError
        As ``snac_core.audio.read`` does.
    """

    def __init__(
        self,
        source: bytes | BinaryIO | str | Path,
        max_seconds: float | None = None,
        channel: Channel = "average",
        raw: RawFormat | None = None,
        hold: Callable[[int], None] | None = None,
    ) -> None:
        self._max_seconds, self._channel, self._raw_format = max_seconds, channel, raw
        self._hold = hold
        self.warning: str | None = None
        with contextlib.ExitStack() as stack:
            self._raw = open_source(source, stack)
            if not self._raw.seek(0, io.SEEK_END):
                raise AudioError("the audio is empty: 0 bytes")
            self._decoder = self._decode()
            stack.callback(lambda: self._decoder.close())
            self.sample_rate = self._decoder.sample_rate
            self.channels = self._decoder.channels
            self.frames = self._decoder.frames
            check_sample_rate(self.sample_rate)
            if not 1 <= self.channels <= MAX_CHANNELS:
                raise AudioError(f"{self.channels} channels are outside 1..{MAX_CHANNELS}")
            check_channel(channel, self.channels)
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

    def mono_blocks(self) -> Iterator[Samples]:
        """Yield all samples of the chosen channel, then make sure that there were no more."""
        channel, energy = self._channel, Energy(self.channels)
        if channel == "loudest":
            channel = 0
            if self.channels > 1:
                yield from self._measure(energy)
                channel = energy.loudest
        for block, average in self._blocks():
            if channel == "average":
                if self.channels > 1:
                    energy.add(block, average)
                yield average
            else:
                yield block[:, int(channel)].copy()
        if channel == "average" and self.channels > 1:
            self.warning = energy.warning()

    def _measure(self, energy: Energy) -> Iterator[Samples]:
        """Decode everything for the channels' energy; what is yielded is empty."""
        for block, average in self._blocks():
            energy.add(block, average)
            yield np.empty(0, np.float32)
        self._decoder.close()
        self._decoder = self._decode()

    def _decode(self) -> Decoder:
        if self._raw_format:
            return LibsndfileDecoder([Part(self._raw, raw=self._raw_format)])
        try:
            return LibsndfileDecoder(parts_of(self._raw))
        except NotSupportedError as error:
            return media.decoder(self._raw, error, self._max_seconds, self._hold)

    def _blocks(self) -> Iterator[tuple[Block, Samples]]:
        """Yield blocks of all channels, checked, with their average."""
        frames = 0
        for block in self._decoder.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                # Column by column: mean(axis=1) of few columns is twenty times slower.
                mono = np.asarray(sum(block.T) / np.float32(self.channels))
            if not np.isfinite(mono).all():
                index = int(np.flatnonzero(~np.isfinite(mono))[0])
                raise AudioError(
                    f"sample {frames + index} ({(frames + index) / self.sample_rate:.3f} s) is "
                    f"{block[index].tolist()}, which is not finite"
                )
            peak = max(float(block.max()), -float(block.min()))
            if peak > MAX_PEAK:
                raise AudioError(
                    f"the audio has a peak of {peak:.6g} within {frames / self.sample_rate:.3f} to "
                    f"{(frames + len(block)) / self.sample_rate:.3f} s: full scale is 1, and at "
                    f"most {MAX_PEAK:g} (+24 dB) is read; 16-bit values stored as floats have to "
                    "be divided by 32768"
                )
            frames += len(block)
            self._check_length(frames)
            yield block, mono

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


def open_source(source: bytes | BinaryIO | str | Path, stack: contextlib.ExitStack) -> BinaryIO:
    """Return an open file that can be sought in; ``stack`` closes it if it was opened here."""
    if isinstance(source, (str, Path)):
        return stack.enter_context(Path(source).open("rb"))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    return source if source.seekable() else io.BytesIO(source.read())

"""Read recordings: any libsndfile format, mono, resampled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from snac_core.audio.channels import AudioWarning, Channel
from snac_core.audio.part import RawFormat
from snac_core.audio.samples import check_sample_rate, check_samples, resampled
from snac_core.audio.source import SoundSource
from snac_core.types import Samples
from snac_core.utils.incremental import Incremental, run_to_end

# A header cannot make us reserve more than this before any of the audio is decoded.
_MAX_RESERVED_SECONDS = 3600


def read(
    source: bytes | BinaryIO | str | Path,
    sample_rate: int,
    max_seconds: float | None = None,
    channel: Channel = "average",
    raw: RawFormat | None = None,
) -> Samples:
    """Read a recording as mono at ``sample_rate``.

    Anything libsndfile reads: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF, AU and more, and
    with the extra ``media`` what phones and browsers record; docs/audio.md has the details.
    Resampling is soxr's high quality; n samples become ``floor(n * sample_rate / rate + 0.5)``.
    An `AudioWarning` is issued if the channels' average is nearly silent and a channel is not.

    Parameters
    ----------
    source
        The bytes of a file, an open binary file (read from its start), or a path.
    sample_rate
        Hz.
    max_seconds
        Longest recording to accept, by its header and by what is decoded.
    channel
        The channels' average, one channel by its index, or the loudest.
    raw
        The format of samples without a header.

    Returns
    -------
    numpy.ndarray
        float32, one-dimensional, at least one sample, all finite.

    Raises
    ------
    AudioError
        For what is empty, not audio, cut short, damaged, without samples, not finite, far
        beyond full scale, or of an absurd rate or channel count.
    AudioTooLongError
        For more than ``max_seconds``.
    OSError
        Where a file cannot be opened or read.
    """
    notes: list[str] = []
    samples = run_to_end(read_incremental(source, sample_rate, max_seconds, channel, raw, notes))
    for note in notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
    return samples


def read_incremental(
    source: bytes | BinaryIO | str | Path,
    sample_rate: int,
    max_seconds: float | None = None,
    channel: Channel = "average",
    raw: RawFormat | None = None,
    notes: list[str] | None = None,
    keep: Callable[[int], None] | None = None,
    hold: Callable[[int], None] | None = None,
) -> Incremental[Samples]:
    """Do what ``read`` does, a block at a time; closed before its end, it lets go of the file.

    Warnings are appended to ``notes`` and not issued. ``keep`` is told how many samples more are
    about to be kept, and ``hold`` how many bytes more, or fewer, a process that decodes may have;
    what they raise ends the reading.
    """
    check_sample_rate(sample_rate)
    with SoundSource(source, max_seconds, channel, raw, hold) as sound:
        expected = _resampled_length(sound.frames or 0, sound.sample_rate, sample_rate)
        recording = _Recording(min(expected, _MAX_RESERVED_SECONDS * sample_rate))
        for block in resampled(sound.mono_blocks(), sound.sample_rate, sample_rate):
            if keep is not None:
                keep(len(block))
            recording.append(block)
            yield
        if sound.warning and notes is not None:
            notes.append(sound.warning)
    return check_samples(recording.finish())


class _Recording:
    """One growing array of samples; growing it moves pages and does not copy them."""

    def __init__(self, reserved: int) -> None:
        self._samples = np.empty(max(reserved, 1), dtype=np.float32)
        self._length = 0

    def append(self, block: Samples) -> None:
        end = self._length + len(block)
        if end > len(self._samples):
            # Not by much: numpy fills what is new with zeros, and so it is in memory.
            self._samples.resize(max(end, len(self._samples) * 9 // 8), refcheck=False)
        self._samples[self._length : end] = block
        self._length = end

    def finish(self) -> Samples:
        self._samples.resize(self._length, refcheck=False)
        return self._samples


def _resampled_length(frames: int, rate: int, new_rate: int) -> int:
    return (2 * frames * new_rate + rate) // (2 * rate)

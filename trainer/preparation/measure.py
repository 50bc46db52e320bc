"""Measures a recording's length, format and level by reading it to the end."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyloudnorm

from snac_core.audio import Channel
from snac_core.audio.source import SoundSource
from snac_core.errors import AudioError

LOUDNESS_SECONDS = 600
"""Loudness and bandwidth are of so much from a recording's start, so that memory has a bound."""

MIN_LOUDNESS_RATE = 8000
"""Hz; the weighting's filters make no sense much below."""


WINDOW = 1024
"""Samples per transform of the spectrum that a bandwidth is read from."""
WINDOWS = 4096
"""Transforms at a time, so that memory has a bound."""
BAND_EDGE_DB = -70.0
"""A recording's band ends where its average spectrum falls this far below its maximum.

The average spectrum of speech is some 55 dB down at 10 kHz, and what a low-pass filter of a
codec or of a resampler leaves is 80 dB down or more.
"""


class Measured(NamedTuple):
    """A recording's figures; without a fault, all but the loudness are there."""

    frames: int = 0
    """Samples per channel."""
    sample_rate: int = 0
    """Hz."""
    channels: int = 0
    peak: float = 0.0
    """Largest magnitude of the chosen channel; 1 is full scale."""
    loudness: float | None = None
    """Integrated loudness of the chosen channel, LUFS (ITU-R BS.1770-4).

    None where there is none: for less than a block of 0.4 s, for silence, and for sample
    rates below `MIN_LOUDNESS_RATE`.
    """
    bandwidth: float = 0.0
    """Highest frequency of the chosen channel's average spectrum, Hz; 0 for silence."""
    content: bytes = b""
    """Digest of the chosen channel: two recordings with the same one sound the same."""
    fault: str | None = None
    """Why it cannot be read."""
    lasting: bool = True
    """Whether the fault lies in the file, rather than in reaching it."""


def measure(path: bytes, channel: Channel = "average") -> Measured:
    """Return what the recording at ``path`` is, or what is wrong with it."""
    try:
        return _measure(Path(os.fsdecode(path)), channel)
    except AudioError as error:
        return Measured(fault=str(error))
    except OSError as error:
        return Measured(fault=error.strerror or str(error), lasting=False)


class Task(NamedTuple):
    """What a process measures at a time."""

    paths: list[bytes]
    channel: Channel = "average"


def measure_all(task: Task) -> list[Measured]:
    """Return `measure` of each path."""
    return [measure(path, task.channel) for path in task.paths]


def _measure(path: Path, channel: Channel) -> Measured:
    frames, peak, digest = 0, 0.0, hashlib.blake2b(digest_size=16)
    kept: list[npt.NDArray[np.float32]] = []
    with SoundSource(path, channel=channel) as source:
        rate, channels = source.sample_rate, source.channels
        for block in source.mono_blocks():
            if frames < LOUDNESS_SECONDS * rate:
                kept.append(block[: LOUDNESS_SECONDS * rate - frames])
            frames += len(block)
            digest.update(block.tobytes())
            peak = max(peak, float(block.max()), -float(block.min()))
    samples = np.concatenate(kept)
    return Measured(
        *(frames, rate, channels, peak),
        loudness=_loudness(samples, rate),
        bandwidth=bandwidth(samples, rate),
        content=digest.digest(),
    )


def bandwidth(samples: npt.NDArray[np.float32], sample_rate: int) -> float:
    """Return the highest frequency that is in ``samples``, in Hz; 0 for silence.

    It is the highest at which the average power spectrum is within `BAND_EDGE_DB` of its maximum:
    half the sample rate for a recording of full band, and about 8000 Hz for one that was made at
    16 kHz, whatever its rate is now.
    """
    samples = np.pad(samples, (0, -len(samples) % WINDOW)).reshape(-1, WINDOW)
    window = np.hanning(WINDOW).astype(np.float32)
    power = np.zeros(WINDOW // 2 + 1)
    for first in range(0, len(samples), WINDOWS):
        spectrum = np.fft.rfft(samples[first : first + WINDOWS] * window)
        power += np.square(np.abs(spectrum)).sum(axis=0)
    if not power.any():
        return 0.0
    (within,) = np.nonzero(power >= power.max() * 10 ** (BAND_EDGE_DB / 10))
    return float(within[-1]) * sample_rate / WINDOW


def _loudness(samples: npt.NDArray[np.float32], sample_rate: int) -> float | None:
    if sample_rate < MIN_LOUDNESS_RATE:
        return None
    meter = _meter(sample_rate)
    if len(samples) < meter.block_size * sample_rate:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        loudness = float(meter.integrated_loudness(samples))
    return loudness if math.isfinite(loudness) else None


@functools.lru_cache
def _meter(sample_rate: int) -> pyloudnorm.Meter:
    return pyloudnorm.Meter(sample_rate)

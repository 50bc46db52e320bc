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
"""Loudness is that of so much from a recording's start, so that memory has a bound."""

MIN_LOUDNESS_RATE = 8000
"""Hz; the weighting's filters make no sense much below."""


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
    loudness = _loudness(np.concatenate(kept), rate)
    return Measured(frames, rate, channels, peak, loudness, digest.digest())


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

"""Choosing which part of a recording becomes a training segment."""

from __future__ import annotations

import functools
import math

import numpy as np
import pyloudnorm

from snac_core.types import Samples
from trainer.data.recordings import Clip, read_at_speed

TRIES = 4
"""Crops that are drawn of a recording whose first ones are quiet; the loudest is taken."""

MOST_GAIN_DB = 20.0
"""Silence that is not digital would otherwise become noise at the level of speech."""


def draw_crop(
    clip: Clip,
    seconds: float,
    length: int,
    sample_rate: int,
    random: np.random.Generator,
    *,
    speed: float = 1.0,
    min_db: float | None = None,
    held: bytes | None = None,
) -> Samples:
    """Read a random part of a recording.

    Parameters
    ----------
    clip
        The recording.
    seconds
        What there must be after where the crop begins.
    length, sample_rate
        Samples to read, and Hz.
    random
        Draws where it begins.
    speed
        How fast it is played.
    min_db
        A crop whose RMS is below this (dB of full scale) is drawn again; None takes any.
    held
        The recording's bytes, where they are in memory already.

    Raises
    ------
    AudioError
        When it cannot be read.
    """
    latest = max(0.0, clip.seconds - seconds * speed)
    best, best_level = np.zeros(0, np.float32), -math.inf
    for _ in range(TRIES):
        start = random.uniform(0.0, latest)
        samples = read_at_speed(clip, start, length, sample_rate, speed, held)
        if min_db is None:
            return samples
        power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
        level = 10.0 * math.log10(max(power, 1e-20))
        if level > best_level:
            best, best_level = samples, level
        if level >= min_db or not latest:
            break
    return best


def at_loudness(samples: Samples, sample_rate: int, loudness: float) -> Samples:
    """Return samples with the gain that brings them to a loudness, never so much that they clip.

    They stay as they are when they have none: less than 0.4 s, and silence.

    Parameters
    ----------
    samples
        float32, one-dimensional.
    sample_rate
        Hz.
    loudness
        Integrated, LUFS (ITU-R BS.1770-4).
    """
    meter = _meter(sample_rate)
    peak = float(np.abs(samples).max(initial=0.0))
    if len(samples) < meter.block_size * sample_rate or not peak:
        return samples
    with np.errstate(divide="ignore"):
        found = float(meter.integrated_loudness(samples))
    if not math.isfinite(found):
        return samples
    gain = 10.0 ** (min(loudness - found, MOST_GAIN_DB) / 20.0)
    return samples * np.float32(min(gain, 1.0 / peak))


@functools.lru_cache
def _meter(sample_rate: int) -> pyloudnorm.Meter:
    return pyloudnorm.Meter(sample_rate)

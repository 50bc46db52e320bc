"""Filters that simulate other rooms, microphones and transmission channels.

All filters are applied as products of spectra. They keep the length of a segment, and lower its
level where it would exceed full scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snac_core.types import Samples

EQUALIZER_HZ = (100.0, 8000.0)
"""Centres of an equalizer's peak are drawn from here, evenly on a logarithmic axis."""
EQUALIZER_OCTAVES = (0.6, 2.2)
"""Standard deviation of its Gaussian, drawn evenly."""
BAND_LIMIT_ORDER = 20
"""Of a Butterworth filter: 120 dB an octave, as steep as those of recorders and codecs."""
DIRECT_TO_REVERBERANT_DB = (0.0, 20.0)
"""Energy of the direct sound above that of the room's response."""


def equalize(
    samples: Samples, sample_rate: int, gain_db: float, random: np.random.Generator
) -> Samples:
    """Raise or lower one part of the spectrum by ``gain_db``, as another microphone would."""
    lowest, highest = EQUALIZER_HZ
    centre = lowest * (highest / lowest) ** random.random()
    width = random.uniform(*EQUALIZER_OCTAVES)
    hz = np.fft.rfftfreq(len(samples), 1.0 / sample_rate).clip(min=1.0)
    peak = np.exp(-0.5 * (np.log2(hz / centre) / width) ** 2)
    return _filtered(samples, 10.0 ** (gain_db * peak / 20.0))


def limit_band(samples: Samples, sample_rate: int, highest_hz: float) -> Samples:
    """Remove what lies above ``highest_hz``, as a lower sample rate does."""
    hz = np.fft.rfftfreq(len(samples), 1.0 / sample_rate)
    return _filtered(samples, (1.0 + (hz / highest_hz) ** (2 * BAND_LIMIT_ORDER)) ** -0.5)


def add_reverberation(
    samples: Samples, sample_rate: int, seconds: float, random: np.random.Generator
) -> Samples:
    """Add the response of a room in which sound falls by 60 dB in ``seconds``.

    The response is white noise with an exponential envelope, which late reverberation resembles
    (Moorer, "About this reverberation business", 1979).
    """
    length = max(1, round(seconds * sample_rate))
    room = random.standard_normal(length) * 10.0 ** (-3.0 * np.arange(length) / length)
    below = random.uniform(*DIRECT_TO_REVERBERANT_DB)
    room *= 10.0 ** (-below / 20.0) / np.sqrt(np.square(room).sum())
    room[0] += 1.0
    padded = len(samples) + length
    spectrum = np.fft.rfft(samples, padded) * np.fft.rfft(room, padded)
    return _within_full_scale(np.fft.irfft(spectrum, padded)[: len(samples)])


def add_silence(samples: Samples, random: np.random.Generator) -> Samples:
    """Replace a stretch, an eighth to a half of the segment, by zeros."""
    count = round(random.uniform(0.125, 0.5) * len(samples))
    start = int(random.integers(len(samples) - count + 1))
    silenced = samples.copy()
    silenced[start : start + count] = 0.0
    return silenced


def _filtered(samples: Samples, response: npt.NDArray[np.floating[Any]]) -> Samples:
    return _within_full_scale(np.fft.irfft(np.fft.rfft(samples) * response, len(samples)))


def _within_full_scale(samples: npt.NDArray[np.float64]) -> Samples:
    scaled: Samples = (samples / max(1.0, float(np.abs(samples).max()))).astype(np.float32)
    return scaled

"""What is measured of a reconstruction, next to the recording that it came from."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import soxr

from snac_core import quality
from snac_core.types import Samples

STFT_SIZES = (512, 1024, 2048)
STFT_FLOOR = 1e-5

PESQ_RATE = 16_000
"""Hz that wide-band PESQ is defined for."""


class Measure(NamedTuple):
    """One measure, and how to print and read its values."""

    name: str
    """As JSON and Parquet call it."""
    label: str
    """As people do."""
    digits: int
    """Behind the point, where printed."""
    higher_is_better: bool
    compute: Callable[[Samples, Samples, int], float]
    """From the reference and the estimate, [T] each, and their sample rate in Hz; NaN where
    the measure is not defined."""


def available() -> tuple[list[Measure], dict[str, str]]:
    """Return the measures that can be computed here, and why the others cannot, by name."""
    try:
        importlib.import_module("pesq")
    except ImportError as error:
        reason = f"the package pesq is not installed ({error}): pip install 'snac-tokenizer[pesq]'"
        return [measure for measure in MEASURES if measure.name != "pesq"], {"pesq": reason}
    return list(MEASURES), {}


def stft_distance(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Return the multi-resolution STFT distance; 0 for equal signals, lower is better.

    Spectral convergence plus mean absolute difference of natural-log magnitudes, as in
    Yamamoto et al., "Parallel WaveGAN", 2020 (https://arxiv.org/abs/1910.11480), equations 4
    to 6, averaged over transforms of 512, 1024 and 2048 samples: periodic Hann window, hop a
    quarter, frames centred with zeros beyond the ends, magnitudes floored at 1e-5.

    Returns
    -------
    float
        NaN for a silent reference, where spectral convergence is not defined.
    """
    if not reference.any():
        return math.nan
    return float(np.mean([_stft_distance(reference, estimate, size) for size in STFT_SIZES]))


def _stft_distance(reference: Samples, estimate: Samples, size: int) -> float:
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    wanted, made = (
        np.abs(
            np.fft.rfft(
                window
                * np.lib.stride_tricks.sliding_window_view(np.pad(samples, size // 2), size)[
                    :: size // 4
                ]
            )
        )
        for samples in (reference, estimate)
    )
    convergence = np.linalg.norm(wanted - made) / np.linalg.norm(wanted)
    logs = [np.log(np.maximum(magnitude, STFT_FLOOR)) for magnitude in (wanted, made)]
    return float(convergence + np.abs(logs[0] - logs[1]).mean())


def pesq(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Return the wide-band PESQ score (ITU-T P.862.2), about 1 to 4.6; higher is better.

    Both signals are resampled to 16 kHz. Needs the package ``pesq``.

    Returns
    -------
    float
        NaN where the score is not defined: silence, less than a quarter of a second, or no
        utterance found.
    """
    package: Any = importlib.import_module("pesq")
    if not (reference.any() and estimate.any()):
        return math.nan
    pair = [soxr.resample(samples, sample_rate, PESQ_RATE) for samples in (reference, estimate)]
    try:
        return float(package.pesq(PESQ_RATE, *pair, "wb"))
    except (package.BufferTooShortError, package.NoUtterancesError):
        return math.nan


def _si_sdr(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    return quality.si_sdr(reference, estimate)


MEASURES = (
    Measure("stoi", "STOI", 3, True, quality.stoi),
    Measure("pesq", "PESQ", 2, True, pesq),
    Measure("log_mel", "log-mel L1", 3, False, quality.log_mel_distance),
    Measure("stft_distance", "MR-STFT", 3, False, stft_distance),
    Measure("si_sdr", "SI-SDR (dB)", 2, True, _si_sdr),
)

"""Metrics that compare a reconstruction with its recording."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import soxr

from snac_core import quality
from snac_core.types import Samples
from trainer.errors import TrainerError
from trainer.evaluation.learned_measures import dnsmos, speaker_similarity, word_error_rate

STFT_SIZES = (512, 1024, 2048)
STFT_FLOOR = 1e-5

QUALITY = "quality"
"""The extra with the measures that are networks of others."""

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
    packages: tuple[str, ...] = ()
    """What it needs, if not all that evaluates has it."""
    extra: str = ""
    """Which of the project's extras brings them."""


def available(names: Sequence[str] | None = None) -> tuple[list[Measure], dict[str, str]]:
    """Return the measures that can be computed here, and why the others cannot, by name.

    Parameters
    ----------
    names
        Which are wanted; None for all.

    Raises
    ------
    TrainerError
        When one that is named is none, or cannot be computed.
    """
    known = [measure.name for measure in MEASURES]
    if unknown := sorted(set(names or ()) - set(known)):
        raise TrainerError(f"no measure {', '.join(unknown)}; known are {', '.join(known)}")
    found, missing = [], {}
    for measure in MEASURES:
        if names is not None and measure.name not in names:
            continue
        lacking = [name for name in measure.packages if not _installed(name)]
        if not lacking:
            found.append(measure)
            continue
        missing[measure.name] = (
            f"not installed: {', '.join(lacking)}; pip install 'snac-tokenizer[{measure.extra}]'"
        )
    if names is not None and missing:
        raise TrainerError("; ".join(f"{name}: {why}" for name, why in missing.items()))
    return found, missing


def _installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


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
    Measure("pesq", "PESQ", 2, True, pesq, ("pesq",), "pesq"),
    Measure("log_mel", "log-mel L1", 3, False, quality.log_mel_distance),
    Measure("stft_distance", "MR-STFT", 3, False, stft_distance),
    Measure("si_sdr", "SI-SDR (dB)", 2, True, _si_sdr),
    Measure("dnsmos", "DNSMOS", 2, True, dnsmos, ("onnxruntime", "speechmos"), QUALITY),
    Measure(
        "speaker", "speaker similarity", 3, True, speaker_similarity, ("resemblyzer",), QUALITY
    ),
    Measure("wer", "WER (English)", 3, False, word_error_rate, ("pocketsphinx", "jiwer"), QUALITY),
)


class Pair(NamedTuple):
    """A recording and its reconstructions, to be measured."""

    names: tuple[str, ...]
    """Which measures."""
    reference: Samples
    """[T]"""
    made: dict[str, Samples]
    """[T] each, by role."""
    sample_rate: int
    """Hz."""


def measured(pair: Pair) -> dict[str, float]:
    """Return each measure of each reconstruction, named ``role_measure``."""
    known: Mapping[str, Measure] = {measure.name: measure for measure in MEASURES}
    return {
        f"{role}_{name}": known[name].compute(pair.reference, samples, pair.sample_rate)
        for role, samples in pair.made.items()
        for name in pair.names
    }

"""How close a reconstruction is to its recording: log-mel distance, SI-SDR and STOI."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from snac_core.audio import check_samples
from snac_core.errors import AudioError
from snac_core.utils.incremental import Incremental, run_to_end

N_MELS = 80
N_FFT = 1024
HOP = 256
MEL_FLOOR = 1e-5

STOI_RATE = 10_000
STOI_WINDOW = 256
STOI_SEGMENT = 30
STOI_PIECE_SECONDS = 60

# Long recordings are measured piece by piece: copies of whole ones are several times as large.
_FRAMES_AT_ONCE = 2048
_SAMPLES_AT_ONCE = 2**20


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> npt.NDArray[np.float32]:
    """Return triangular mel filters from 0 Hz to half the sample rate.

    On Slaney's mel scale (linear to 1 kHz, logarithmic above; Auditory Toolbox, 1998), each
    triangle scaled to an area of 1 over Hz: what librosa calls ``htk=False, norm="slaney"``.
    A filter narrower than the bins' spacing may be all zero.

    Parameters
    ----------
    sample_rate
        Hz.
    n_fft
        Samples per transform.
    n_mels
        Number of filters.

    Returns
    -------
    numpy.ndarray
        float32, [n_mels, n_fft // 2 + 1]; multiplies a magnitude or power spectrum.
    """
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate / 2), n_mels + 2))
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))
    return (np.maximum(triangles, 0.0) * 2.0 / (high - low)).astype(np.float32)


def log_mel_distance(reference: object, estimate: object, sample_rate: int) -> float:
    """Return the mean absolute difference of natural-log mel spectrograms.

    80 Slaney mels of the magnitude spectrum, periodic Hann window and transform of 1024
    samples, hop 256, frames centred with zeros beyond the ends, mels floored at 1e-5.

    Parameters
    ----------
    reference, estimate
        float samples, [T] each.
    sample_rate
        Hz.

    Raises
    ------
    AudioError
        For unusable samples or different lengths.
    """
    return run_to_end(log_mel_incremental(reference, estimate, sample_rate))


def log_mel_incremental(
    reference: object, estimate: object, sample_rate: int
) -> Incremental[float]:
    """Do what ``log_mel_distance`` does, some seconds of audio at a time."""
    pair = _checked_pair(reference, estimate)
    filters = mel_filterbank(sample_rate, N_FFT, N_MELS).T
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    count, total = len(pair[0]) // HOP + 1, 0.0
    for first in range(0, count, _FRAMES_AT_ONCE):
        last = min(count, first + _FRAMES_AT_ONCE)
        logs = [
            np.log(np.maximum(np.abs(np.fft.rfft(part * window)) @ filters, MEL_FLOOR))
            for part in (_frames(samples, first, last) for samples in pair)
        ]
        total += float(np.abs(logs[0] - logs[1]).sum(dtype=np.float64))
        yield
    return total / (count * N_MELS)


def _frames(samples: npt.NDArray[np.float32], first: int, last: int) -> npt.NDArray[np.float32]:
    """Return frames ``first`` to ``last``, [frames, N_FFT], with zeros beyond the ends."""
    start, stop = first * HOP - N_FFT // 2, (last - 1) * HOP + N_FFT // 2
    inside = samples[max(0, start) : stop]
    padded = np.pad(inside, (max(0, -start), max(0, stop - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]


def si_sdr(reference: object, estimate: object) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB.

    Le Roux et al., "SDR - half-baked or well done?", 2019 (https://arxiv.org/abs/1811.02508),
    with the means removed.

    Parameters
    ----------
    reference, estimate
        float samples, [T] each.

    Returns
    -------
    float
        Infinity for an estimate that is the reference, scaled; minus infinity for one that
        has nothing of it; NaN for a reference that is constant, where it is not defined.

    Raises
    ------
    AudioError
        For unusable samples or different lengths.
    """
    return run_to_end(si_sdr_incremental(reference, estimate))


def si_sdr_incremental(reference: object, estimate: object) -> Incremental[float]:
    """Do what ``si_sdr`` does, some seconds of audio at a time."""
    pair = _checked_pair(reference, estimate)
    means = [float(samples.mean(dtype=np.float64)) for samples in pair]

    def blocks() -> Iterator[list[npt.NDArray[np.float64]]]:
        for start in range(0, len(pair[0]), _SAMPLES_AT_ONCE):
            parts = (samples[start : start + _SAMPLES_AT_ONCE] for samples in pair)
            yield [part - np.float64(mean) for part, mean in zip(parts, means, strict=True)]

    energy = common = 0.0
    for target, mixed in blocks():
        energy += float(target @ target)
        common += float(target @ mixed)
        yield
    if energy == 0:
        return math.nan
    signal = noise = 0.0
    for target, mixed in blocks():
        target *= common / energy
        mixed -= target
        signal += float(target @ target)
        noise += float(mixed @ mixed)
        yield
    if signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise) if noise else math.inf


def stoi(reference: object, estimate: object, sample_rate: int) -> float:
    """Return the short-time objective intelligibility, at most 1; higher is better.

    Taal et al., "An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy
    Speech", 2011, computed by pystoi. Longer recordings are scored in equal pieces of at most
    60 s and averaged, so that memory stays bounded.

    Parameters
    ----------
    reference, estimate
        float samples, [T] each.
    sample_rate
        Hz.

    Returns
    -------
    float
        NaN where no piece of the reference holds 0.4 s that is not silent, as the measure
        needs.

    Raises
    ------
    AudioError
        For unusable samples or different lengths.
    """
    return run_to_end(stoi_incremental(reference, estimate, sample_rate))


def stoi_incremental(reference: object, estimate: object, sample_rate: int) -> Incremental[float]:
    """Do what ``stoi`` does, a piece of the recording at a time."""
    clean, heard = _checked_pair(reference, estimate)
    pieces = math.ceil(len(clean) / (STOI_PIECE_SECONDS * sample_rate))
    scores = []
    for first, second in zip(
        np.array_split(clean, pieces), np.array_split(heard, pieces), strict=True
    ):
        scores.append(_stoi_piece(first, second, sample_rate))
        yield
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan


def _stoi_piece(
    clean: npt.NDArray[np.float32], heard: npt.NDArray[np.float32], sample_rate: int
) -> float:
    # It brings scipy, for which a process that only trains need not wait.
    import pystoi

    pair = [samples.astype(np.float64) for samples in (clean, heard)]
    if sample_rate != STOI_RATE:
        pair = [pystoi.utils.resample_oct(samples, STOI_RATE, sample_rate) for samples in pair]
    if len(pair[0]) <= STOI_WINDOW or not pair[0].any():
        return math.nan
    # pystoi drops silent frames, and where too few are left it warns and answers 1e-5.
    spoken, _ = pystoi.utils.remove_silent_frames(*pair, 40, STOI_WINDOW, STOI_WINDOW // 2)
    if len(range(0, len(spoken) - STOI_WINDOW, STOI_WINDOW // 2)) < STOI_SEGMENT:
        return math.nan
    return float(pystoi.stoi(*pair, STOI_RATE))


def _checked_pair(
    reference: object, estimate: object
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    first, second = check_samples(reference), check_samples(estimate)
    if len(first) != len(second):
        raise AudioError(
            f"the reference has {len(first)} samples and the estimate {len(second)}; "
            "they must be equally long"
        )
    return first, second


def _hz_to_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def _mel_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = 1000 * np.exp(np.log(6.4) / 27 * (np.maximum(mels, 15) - 15))
    return np.where(mels < 15, mels * 200 / 3, above)

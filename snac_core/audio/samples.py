"""Checks of samples and sample rates, and resampling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from snac_core.errors import AudioError
from snac_core.types import Samples

MIN_SAMPLE_RATE = 1_000

MAX_SAMPLE_RATE = 768_000

MAX_PEAK = 16.0
"""Largest magnitude of a sample that is read, full scale being 1: +24 dB."""


def check_samples(samples: object) -> Samples:
    """Return ``samples`` as a contiguous float32 array, copying only where needed.

    Raises
    ------
    AudioError
        Unless they are a non-empty one-dimensional array of finite floats.
    """
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise AudioError(f"samples must be a one-dimensional array: {error}") from None
    if array.dtype.kind != "f":
        raise AudioError(f"samples must be floats within -1..1, not {array.dtype}")
    if array.ndim != 1:
        raise AudioError(f"samples must be one-dimensional (mono), not of shape {array.shape}")
    if not array.size:
        raise AudioError("there are no samples")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    # An array's extremes are NaN if anything in it is; unlike isfinite() they need no memory.
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise AudioError(f"sample {index} is {array[index]}, which is not finite")
    return array


def resampled(blocks: Iterable[Samples], rate: int, new_rate: int) -> Iterator[Samples]:
    """Resample block by block; where blocks begin makes no difference to the result."""
    if rate == new_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def check_sample_rate(sample_rate: int) -> None:
    """Raise AudioError unless ``sample_rate`` (Hz) is one that recordings have."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"a sample rate of {sample_rate} Hz is outside {MIN_SAMPLE_RATE}..{MAX_SAMPLE_RATE} Hz"
        )

"""The golden clip: a fixed signal whose codes a version carries, and a loader recomputes.

Checksums say that the files are whole. The golden clip says that this machine, with this
device and these libraries, makes the model's codes out of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from snac_core.codec import Codec
from snac_core.config import SnacConfig
from snac_core.errors import ModelError


def golden_clip(config: SnacConfig) -> npt.NDArray[np.float32]:
    """Return about a second of a speech-like signal, the same on every machine.

    A voice whose pitch and formants glide, four syllables a second, with a hiss at the start
    of each. Closed formulas and integer hashing only, rounded to 16 bits, so that neither a
    random generator's stream nor the last bit of a sine can change it.

    Parameters
    ----------
    config
        Gives the sample rate in Hz. The length is not a whole number of coarse frames,
        so that padding is part of what is checked.

    Returns
    -------
    1-D float32 array in [-0.5, 0.5].
    """
    rate = config.sampling_rate
    length = rate + rate // 37
    length += length % config.frame_samples == 0
    seconds = np.arange(length) / rate
    syllable = (4 * seconds) % 1.0

    pitch = 140 + 60 * np.sin(2 * np.pi * 0.7 * seconds)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = (
        (500 + 250 * np.sin(2 * np.pi * 1.3 * seconds), 90.0),
        (1500 + 600 * np.cos(2 * np.pi * 0.9 * seconds), 140.0),
    )
    voice = np.zeros(length)
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - centre) / width) ** 2) for centre, width in formants)
        voice += np.where(frequency < rate / 2, gain, 0) * np.sin(harmonic * phase)

    hiss = _white(length) * np.exp(-(((syllable - 0.08) / 0.05) ** 2))
    signal = voice * np.sin(np.pi * syllable) ** 2 + 0.5 * hiss
    signal *= 0.5 / np.abs(signal).max()
    clip: npt.NDArray[np.float32] = (np.round(signal * 2**15) / 2**15).astype(np.float32)
    return clip


def _white(length: int) -> npt.NDArray[np.float64]:
    """Return noise in [-1, 1): each index hashed (the `lowbias32` finalizer by C. Wellons)."""
    word = np.arange(1, length + 1, dtype=np.uint32)
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B)
    word ^= word >> np.uint32(16)
    return word / 2.0**31 - 1.0


def golden_levels(codec: Codec) -> tuple[tuple[int, ...], ...]:
    """Return the codes that ``codec`` gives the golden clip, one tuple per level."""
    (codes,) = codec.encode([golden_clip(codec.config)])
    return tuple(tuple(level.tolist()) for level in codes.levels)


def check_golden(codec: Codec, expected: Sequence[Sequence[int]]) -> None:
    """Check that ``codec`` gives the golden clip the codes it had when it was published.

    Another processor may round a near tie between two entries the other way, and a coarse
    code that flips takes the finer ones under it along. So the codes of one frame, or one
    percent if that is more, may differ; a model that is not itself changes nearly all.

    Raises
    ------
    ModelError
        If more codes differ, with their number, or the levels have other lengths.
    """
    actual = golden_levels(codec)
    lengths, wanted = [len(level) for level in actual], [len(level) for level in expected]
    if lengths != wanted:
        raise ModelError(
            f"the golden clip gives levels of {lengths} codes, where the manifest has {wanted}"
        )
    differing = sum(
        a != b
        for level, other in zip(actual, expected, strict=True)
        for a, b in zip(level, other, strict=True)
    )
    allowed = max(sum(codec.config.codes_per_frame), sum(lengths) // 100)
    if differing > allowed:
        raise ModelError(
            f"{differing} of {sum(lengths)} codes of the golden clip differ from the manifest's "
            f"(at most {allowed} may): this machine does not reproduce the published model"
        )

"""Recordings as mono FLAC at the rate of most models."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from snac_core.audio.source import SoundSource
from snac_core.utils import atomic_files

SAMPLE_RATE = 24000
"""Hz."""


def to_flac(source: bytes) -> bytes:
    """Return the recording at ``source`` as 16-bit mono FLAC at `SAMPLE_RATE`.

    It is decoded block by block: what is in memory is the FLAC.

    Raises
    ------
    AudioError, OSError
        As `snac_core.audio.read` does.
    """
    memory = io.BytesIO()
    with (
        SoundSource(Path(os.fsdecode(source))) as sound,
        soundfile.SoundFile(memory, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file,
    ):
        if sound.sample_rate == SAMPLE_RATE:
            for block in sound.mono_blocks():
                file.write(block)
        else:
            resampler = soxr.ResampleStream(sound.sample_rate, SAMPLE_RATE, 1, dtype="float32")
            for block in sound.mono_blocks():
                file.write(resampler.resample_chunk(block))
            file.write(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    return memory.getvalue()


def make_flac(task: tuple[bytes, Path]) -> None:
    """Write the FLAC of a source to a path, where it is whole or not at all."""
    source, target = task
    unfinished = atomic_files.temporary(target)
    try:
        unfinished.write_bytes(to_flac(source))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)

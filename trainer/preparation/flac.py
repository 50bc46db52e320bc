"""Conversion of recordings to mono FLAC at the model's sample rate."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from snac_core.audio import Channel
from snac_core.audio.source import SoundSource
from snac_core.utils import atomic_files

SAMPLE_RATE = 24000
"""Hz, unless another is asked for."""


class Conversion(NamedTuple):
    """What is to be converted."""

    source: bytes
    sample_rate: int = SAMPLE_RATE
    """Hz of the result."""
    target: Path | None = None
    """Where to write it."""
    channel: Channel = "average"


def to_flac(task: Conversion) -> bytes:
    """Return a recording as 16-bit mono FLAC.

    It is decoded block by block: what is in memory is the FLAC.

    Raises
    ------
    AudioError, OSError
        As `snac_core.audio.read` does.
    """
    memory = io.BytesIO()
    with (
        SoundSource(Path(os.fsdecode(task.source)), channel=task.channel) as sound,
        soundfile.SoundFile(memory, "w", task.sample_rate, 1, "PCM_16", format="FLAC") as file,
    ):
        if sound.sample_rate == task.sample_rate:
            for block in sound.mono_blocks():
                file.write(block)
        else:
            resampler = soxr.ResampleStream(sound.sample_rate, task.sample_rate, 1, dtype="float32")
            for block in sound.mono_blocks():
                file.write(resampler.resample_chunk(block))
            file.write(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    return memory.getvalue()


def make_flac(task: Conversion) -> None:
    """Write the FLAC of a recording to its target, where it is whole or not at all."""
    assert task.target is not None
    target = task.target
    unfinished = atomic_files.temporary(target)
    try:
        unfinished.write_bytes(to_flac(task))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)

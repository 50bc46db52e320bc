"""Audio in and out: any file libsndfile reads to mono samples at one rate, and back.

Samples are float32, one-dimensional, nominally within -1..1, everywhere in this package.
Reading holds the result and a few blocks, never a second copy of the recording.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt
import soundfile

from snac_core.audio.samples import check_sample_rate, check_samples, resampled
from snac_core.audio.source import BLOCK_SAMPLES
from snac_core.errors import AudioError
from snac_core.types import Samples
from snac_core.utils.incremental import Incremental, run_to_end

AudioFormat = Literal["wav", "flac", "ogg", "pcm"]

MEDIA_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "pcm": "audio/pcm",
}
"""The media type of each format that can be written."""

OPUS_SAMPLE_RATES = (8000, 12000, 16000, 24000, 48000)


def write(
    target: str | Path | BinaryIO,
    samples: object,
    sample_rate: int,
    format: AudioFormat | None = None,
) -> None:
    """Write mono samples to a file; what lies outside -1..1 is clipped.

    Parameters
    ----------
    target
        A path, or a file open for binary writing, which need not be seekable.
    samples
        As ``check_samples`` wants them.
    sample_rate
        Hz. Ogg holds Opus, which knows 8, 12, 16, 24 and 48 kHz only: samples of another
        rate are resampled to 48 kHz.
    format
        ``wav`` (16-bit), ``flac`` (16-bit), ``ogg`` (Opus) or ``pcm`` (little-endian 16-bit
        without a header). By default what the path ends in, and wav for an open file.

    Raises
    ------
    AudioError
        For samples or a rate that cannot be written, or an unknown format.
    OSError
        Where the file cannot be written.
    """
    checked = check_samples(samples)
    if isinstance(target, (str, Path)):
        chunks = _encoded(checked, sample_rate, format or format_of(target))
        with Path(target).open("wb") as file:
            file.writelines(chunks)
    else:
        target.writelines(_encoded(checked, sample_rate, format or "wav"))


def encode_bytes(samples: object, sample_rate: int, format: AudioFormat = "wav") -> bytes:
    """Return mono samples as the bytes of a file; see ``write``."""
    return run_to_end(encode_incremental(samples, sample_rate, format))


def encode_incremental(
    samples: object, sample_rate: int, format: AudioFormat = "wav"
) -> Incremental[bytes]:
    """Do what ``encode_bytes`` does, a block at a time."""
    parts = []
    for part in _encoded(check_samples(samples), sample_rate, format):
        parts.append(part)
        yield
    return b"".join(parts)


def format_of(path: str | Path) -> AudioFormat:
    """Return the format that a path's ending names: .wav, .flac, .ogg or .opus, .pcm.

    Raises
    ------
    AudioError
        For another ending.
    """
    endings: dict[str, AudioFormat] = {f".{known}": known for known in MEDIA_TYPES}
    endings[".opus"] = "ogg"
    try:
        return endings[Path(path).suffix.lower()]
    except KeyError:
        raise AudioError(f"{Path(path).name} does not end in one of {list(endings)}") from None


def wav_header(sample_rate: int, num_samples: int | None = None) -> bytes:
    """Return the 44 bytes that precede 16-bit mono samples in a WAV file.

    Parameters
    ----------
    sample_rate
        Hz.
    num_samples
        None where it is not known yet; players then read until the end.

    Raises
    ------
    AudioError
        For more samples than a WAV file can hold.
    """
    largest = 0xFFFFFFFF - 36
    size = largest if num_samples is None else 2 * num_samples
    if size > largest:
        raise AudioError(f"{num_samples} samples are too many for WAV; FLAC can hold them")
    riff = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", size)


def _encoded(samples: Samples, sample_rate: int, format: AudioFormat) -> Iterator[bytes]:
    """Yield the parts of a file, one for each block; most are empty where it ends as a whole."""
    if format not in get_args(AudioFormat):
        raise AudioError(f"unknown audio format {format!r}; known: {', '.join(MEDIA_TYPES)}")
    check_sample_rate(sample_rate)
    starts = range(0, len(samples), BLOCK_SAMPLES)
    blocks = (samples[start : start + BLOCK_SAMPLES] for start in starts)
    if format == "wav":
        yield wav_header(sample_rate, len(samples))
    if format in ("wav", "pcm"):
        yield from (_to_int16(block).tobytes() for block in blocks)
    elif format == "flac":
        yield from _with_libsndfile(map(_to_int16, blocks), sample_rate, "FLAC", "PCM_16")
    else:
        rate = sample_rate if sample_rate in OPUS_SAMPLE_RATES else 48000
        clipped = (np.clip(block, -1, 1) for block in resampled(blocks, sample_rate, rate))
        yield from _with_libsndfile(clipped, rate, "OGG", "OPUS")


def _to_int16(block: Samples) -> npt.NDArray[np.int16]:
    """Scale by 32768, as reading does: 16-bit audio that was read is written unchanged."""
    scaled = np.rint(np.clip(block, -1, 1) * np.float32(32768))
    pcm: npt.NDArray[np.int16] = np.minimum(scaled, 32767).astype("<i2")
    return pcm


def _with_libsndfile(
    blocks: Iterable[npt.NDArray[Any]], sample_rate: int, container: str, subtype: str
) -> Iterator[bytes]:
    memory = io.BytesIO()
    with soundfile.SoundFile(
        memory, "w", sample_rate, channels=1, format=container, subtype=subtype
    ) as file:
        for block in blocks:
            file.write(block)
            yield b""
    yield memory.getvalue()

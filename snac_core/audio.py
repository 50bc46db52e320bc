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
import soxr

from snac_core.errors import AudioError
from snac_core.sound_source import BLOCK_SAMPLES, SoundSource, check_sample_rate
from snac_core.types import Samples
from snac_core.utils.incremental import Piecemeal, finish

AudioFormat = Literal["wav", "flac", "ogg", "pcm"]

MEDIA_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "pcm": "audio/pcm",
}
"""The media type of each format that can be written."""

OPUS_SAMPLE_RATES = (8000, 12000, 16000, 24000, 48000)

# A header cannot make us reserve more than this before any of the audio is decoded.
_MAX_RESERVED_SECONDS = 3600


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


def read(
    source: bytes | BinaryIO | str | Path, sample_rate: int, max_seconds: float | None = None
) -> Samples:
    """Read a recording as mono at ``sample_rate``.

    Anything libsndfile reads: WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, CAF, AU and more.
    Channels are averaged. Resampling is soxr's high quality; n samples become
    ``floor(n * sample_rate / rate + 0.5)``. Of a chained Ogg only the first link is read.

    Parameters
    ----------
    source
        The bytes of a file, an open binary file (read from its start), or a path.
    sample_rate
        Hz.
    max_seconds
        Longest recording to accept, by its header and by what is decoded.

    Returns
    -------
    numpy.ndarray
        float32, one-dimensional, at least one sample, all finite.

    Raises
    ------
    AudioError
        For what is empty, not audio, cut short, damaged, without samples, not finite, or of
        an absurd rate or channel count.
    AudioTooLongError
        For more than ``max_seconds``.
    OSError
        Where a file cannot be opened or read.
    """
    return finish(read_piecemeal(source, sample_rate, max_seconds))


def read_piecemeal(
    source: bytes | BinaryIO | str | Path, sample_rate: int, max_seconds: float | None = None
) -> Piecemeal[Samples]:
    """Do what ``read`` does, a block at a time; closed before its end, it lets go of the file."""
    check_sample_rate(sample_rate)
    with SoundSource(source, max_seconds) as sound:
        expected = _resampled_length(sound.frames or 0, sound.sample_rate, sample_rate)
        recording = _Recording(min(expected, _MAX_RESERVED_SECONDS * sample_rate))
        for block in _resampled(sound.mono_blocks(), sound.sample_rate, sample_rate):
            recording.append(block)
            yield
    return check_samples(recording.finish())


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
    return finish(encode_piecemeal(samples, sample_rate, format))


def encode_piecemeal(
    samples: object, sample_rate: int, format: AudioFormat = "wav"
) -> Piecemeal[bytes]:
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


class _Recording:
    """One growing array of samples; growing it moves pages and does not copy them."""

    def __init__(self, reserved: int) -> None:
        self._samples = np.empty(max(reserved, 1), dtype=np.float32)
        self._length = 0

    def append(self, block: Samples) -> None:
        end = self._length + len(block)
        if end > len(self._samples):
            self._samples.resize(max(end, len(self._samples) * 3 // 2), refcheck=False)
        self._samples[self._length : end] = block
        self._length = end

    def finish(self) -> Samples:
        self._samples.resize(self._length, refcheck=False)
        return self._samples


def _resampled_length(frames: int, rate: int, new_rate: int) -> int:
    return (2 * frames * new_rate + rate) // (2 * rate)


def _resampled(blocks: Iterable[Samples], rate: int, new_rate: int) -> Iterator[Samples]:
    """Resample block by block; where blocks begin makes no difference to the result."""
    if rate == new_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


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
        clipped = (np.clip(block, -1, 1) for block in _resampled(blocks, sample_rate, rate))
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

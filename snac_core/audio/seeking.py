"""Stretches of recordings, by seeking where that is possible and by reading on where it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from snac_core.audio import containers, flac
from snac_core.audio.byte_view import size_of
from snac_core.audio.decoder import UNKNOWN_FRAMES, open_part
from snac_core.audio.part import NotSupportedError
from snac_core.audio.quiet import quiet
from snac_core.audio.samples import MAX_PEAK
from snac_core.audio.source import SoundSource, open_source
from snac_core.errors import AudioError
from snac_core.types import Samples

_EXACT = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
"""Formats in which seeking gives exactly the samples that reading on gives."""

OGG_PAGE_SECONDS = 10
"""Longer than an Ogg page lasts."""

_SEEKABLE = _EXACT | {"OGG", "MP3"}


class Facts(NamedTuple):
    """What is known of a recording without reading all of it, where that is possible."""

    frames: int
    """Samples per channel."""
    sample_rate: int
    """Hz."""
    channels: int


class _Open(NamedTuple):
    file: soundfile.SoundFile
    frames: int


def facts(source: bytes | BinaryIO | str | Path) -> Facts:
    """Return the length and format of a recording, with the repairs of `snac_core.audio.read`.

    A FLAC is believed if its last frame agrees with its header. What cannot be sought in is
    decoded to its end.

    Raises
    ------
    AudioError, OSError
        As ``snac_core.audio.read`` does.
    """
    with _opened(source) as found:
        if found is not None:
            if not found.frames:
                raise AudioError("the audio has a header and no samples")
            return Facts(found.frames, found.file.samplerate, found.file.channels)
    with SoundSource(source) as sound:
        frames = sum(map(len, sound.mono_blocks()))
        return Facts(frames, sound.sample_rate, sound.channels)


def read_stretch(
    source: bytes | BinaryIO | str | Path, first: int, count: int
) -> tuple[Samples, int]:
    """Return up to ``count`` samples from ``first`` on, channels averaged, and their rate in Hz.

    There are fewer, or none, where the recording ends before.

    Raises
    ------
    AudioError, OSError
        As ``snac_core.audio.read`` does, for what lies within the stretch.
    """
    with _opened(source) as found:
        if found is not None:
            return _sought(found, first, count), int(found.file.samplerate)
    parts, at = [], 0
    with SoundSource(source) as sound:
        for block in sound.mono_blocks():
            parts.append(block[max(0, first - at) : max(0, first + count - at)])
            at += len(block)
            if at >= first + count:
                break
        return np.concatenate(parts), sound.sample_rate


@contextlib.contextmanager
def _opened(source: bytes | BinaryIO | str | Path) -> Iterator[_Open | None]:
    """Open a recording for seeking; None where only reading it on gives all of it."""
    with contextlib.ExitStack() as stack:
        raw = open_source(source, stack)
        if not size_of(raw):
            raise AudioError("the audio is empty: 0 bytes")
        part = flac.plain(raw)
        if part is None:
            try:
                parts = containers.parts_of(raw)
            except NotSupportedError:
                parts = []
            part = parts[0] if len(parts) == 1 else None
        if part is None:
            yield None
            return
        stream, file = open_part(part)
        stack.callback(file.close)
        frames = min(file.frames, file.frames if part.most is None else part.most)
        known = file.frames < UNKNOWN_FRAMES and file.format in _SEEKABLE and file.seekable()
        yield _Open(file, frames) if known else None
        stream.check()


def _sought(found: _Open, first: int, count: int) -> Samples:
    file = found.file
    count = max(0, min(count, found.frames - first))
    if not count:
        return np.empty(0, np.float32)
    try:
        with quiet():
            if file.format == "OGG":
                # Seeking into the last page of a Vorbis stream is off by what the page trims.
                start = max(0, min(first, found.frames - OGG_PAGE_SECONDS * file.samplerate))
                file.seek(start)
                file.read(first - start, np.float32)
            else:
                file.seek(first)
            frames = file.read(count, np.float32, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"the audio cannot be read from sample {first} on: {error.error_string}"
        ) from error
    if len(frames) < count and file.format in _EXACT:
        raise AudioError(f"the audio is cut short: {first + len(frames)} of {found.frames} samples")
    with np.errstate(over="ignore", invalid="ignore"):
        samples: Samples = frames.mean(axis=1)
    if not np.isfinite(samples).all():
        raise AudioError(f"the audio has samples that are not finite after sample {first}")
    if len(frames) and max(float(frames.max()), -float(frames.min())) > MAX_PEAK:
        raise AudioError(f"the audio has a peak above {MAX_PEAK:g} after sample {first}")
    return samples

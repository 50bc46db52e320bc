"""Recordings on disk: listing them, their lengths, and reading any part by seeking."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import soxr

from snac_core import audio
from snac_core.audio import AUDIO_SUFFIXES
from snac_core.audio.byte_view import Stretch, view
from snac_core.errors import AudioError
from snac_core.types import Samples
from trainer.data import parquet_files
from trainer.data.places import open_file
from trainer.errors import TrainerError

CONTEXT_SECONDS = 0.02
"""Read on both sides of what is resampled; longer than the resampler's filter."""


class Clip(NamedTuple):
    """A recording on disk, or a stretch of a larger file that is a recording."""

    path: Path
    frames: int
    """Samples at the recording's own rate."""
    sample_rate: int
    """Hz."""
    weight: float = 1.0
    """How often it counts in an epoch."""
    offset: int = 0
    """Byte of the file at which it begins."""
    size: int = 0
    """Its bytes; 0 when it is the whole file."""
    url: str = ""
    """Where ``path`` really is, when that is not on this machine."""
    row: int = -1
    """Its row in a Parquet file of recordings."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.frames / self.sample_rate

    @property
    def name(self) -> str:
        """Its name in messages."""
        place = self.url or str(self.path)
        if self.row >= 0:
            return f"{place} row {self.row}"
        return f"{place} at byte {self.offset}" if self.size else place


def is_audio(name: str) -> bool:
    """Return whether a file name has the suffix of a recording."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES  # noqa: PTH122


def clip_of(
    path: Path, offset: int = 0, size: int = 0, url: str = "", held: bytes | None = None
) -> Clip:
    """Return a recording with its length: by its header, or decoded where that does not tell it.

    Parameters
    ----------
    path, offset, size, url
        As of a `Clip`.
    held
        The recording's bytes, where they are in memory already.

    Raises
    ------
    AudioError
        When it cannot be read, is cut short, or has no samples.
    """
    place = Clip(path, 0, 1, offset=offset, size=size, url=url)
    try:
        with opened(place, held) as source:
            found = audio.facts(source)
    except OSError as error:
        raise AudioError(error.strerror or str(error)) from error
    return place._replace(frames=found.frames, sample_rate=found.sample_rate)


def group_of(path: Path, group_by: str) -> str:
    """Return the group, such as the speaker, that a recording belongs to.

    Parameters
    ----------
    path
        The recording.
    group_by
        ``"folder"``, or a regular expression whose first group (or whole match) in the file
        name is what to return.

    Raises
    ------
    TrainerError
        When the name does not match, or ``group_by`` is no regular expression.
    """
    if group_by == "folder":
        return path.parent.name
    try:
        match = re.search(group_by, path.name)
    except re.error as error:
        raise TrainerError(f"{group_by!r} is not a regular expression: {error}") from error
    if match is None or (match.re.groups and match[1] is None):
        raise TrainerError(f"the file name {path.name!r} does not match {group_by!r}")
    return match[1] if match.re.groups else match[0]


def read_part(
    clip: Clip, start: float, seconds: float, sample_rate: int, held: bytes | None = None
) -> Samples:
    """Read ``seconds`` from ``start`` on by seeking; mono, resampled.

    It is the same slice that the whole recording, resampled, would give.

    Parameters
    ----------
    clip
        The recording.
    start, seconds
        In seconds. The start is rounded down to where both sample rates have a sample.
    sample_rate
        Hz of the result.
    held
        The recording's bytes, where they are in memory already.

    Returns
    -------
    numpy.ndarray
        float32, at most ``round(seconds * sample_rate)`` samples; fewer where the recording
        ends before.

    Raises
    ------
    AudioError
        When the file cannot be read, or there is nothing where its header promised samples,
        or samples are not finite.
    """
    length = round(seconds * sample_rate)
    per_second = math.gcd(clip.sample_rate, sample_rate)
    step_in, step_out = clip.sample_rate // per_second, sample_rate // per_second
    first = int(start * per_second)
    context = math.ceil(CONTEXT_SECONDS * per_second) if step_in != step_out else 0
    before = min(first, context)
    steps = before + math.ceil(length / step_out) + context
    samples = _read(clip, (first - before) * step_in, steps * step_in, held)
    if step_in != step_out:
        samples = soxr.resample(samples, clip.sample_rate, sample_rate)
    return samples[before * step_out :][:length]


def read_at_speed(
    clip: Clip,
    start: float,
    length: int,
    sample_rate: int,
    speed: float,
    held: bytes | None = None,
) -> Samples:
    """Read at most ``length`` samples that, at ``sample_rate``, play ``speed`` times as fast.

    Otherwise as `read_part`. The speed is rounded to a rate that is a hundredth of
    ``sample_rate`` or a multiple of it, so that resampling stays cheap.
    """
    if speed == 1.0:
        return read_part(clip, start, length / sample_rate, sample_rate, held)
    hundredth = max(1, sample_rate // 100)
    rate = max(1, round(sample_rate / speed / hundredth)) * hundredth
    return read_part(clip, start, length / rate, rate, held)


@contextmanager
def opened(clip: Clip, held: bytes | None = None) -> Iterator[Path | BinaryIO]:
    """Give the path or file object from which ``clip`` is read."""
    if clip.row >= 0 and held is None:
        held = parquet_files.recording(clip.url or clip.path, clip.row)
    if held is not None:
        yield io.BytesIO(held)
    elif clip.size:
        with open_file(clip.url or clip.path) as file:
            yield view(file, [Stretch(clip.offset, clip.offset + clip.size)])
    elif clip.url:
        with open_file(clip.url) as file:
            yield file
    else:
        yield clip.path


def _read(clip: Clip, first: int, count: int, held: bytes | None) -> Samples:
    """Return up to ``count`` samples from ``first`` on, channels averaged."""
    try:
        with opened(clip, held) as source:
            samples, sample_rate = audio.read_stretch(source, first, count)
    except AudioError as error:
        raise AudioError(f"{clip.name}: {error}") from error
    except OSError as error:
        raise AudioError(f"{clip.name} cannot be read: {error.strerror or error}") from error
    if sample_rate != clip.sample_rate:
        raise AudioError(f"{clip.name} is at {sample_rate} Hz now and was at {clip.sample_rate} Hz")
    if not len(samples):
        raise AudioError(f"{clip.name} ends before sample {first} of {clip.frames}")
    return samples

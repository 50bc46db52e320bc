"""A group of clips read: opened, cut, mixed, resampled, and handed on as batches of audio."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from bulk.batches import Batch
from bulk.reading.batcher import Batcher
from bulk.reading.containers import Opened, Row, recordings
from bulk.reading.long_clips import LongClip
from bulk.reading.segments import Segment, cut
from snac_core.audio import Channel, SoundSource, check_samples, resampled
from snac_core.config import SnacConfig
from snac_core.errors import AudioError
from snac_core.types import Samples


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How clips are read.

    Parameters
    ----------
    config
        Shape of the model that they are read for.
    core_samples
        Samples that a codec keeps of each window.
    channel
        Of recordings with several, unless the input names one.
    min_seconds, max_seconds
        Clips that are shorter or longer are left out.
    batch_seconds
        Audio after which a batch ends.
    long_seconds
        Audio of a clip after which it is cut into runs of windows; longer than three windows.
    audio_column
        Of Parquet and Arrow files.
    """

    config: SnacConfig
    core_samples: int
    channel: Channel = "average"
    min_seconds: float = 0.0
    max_seconds: float | None = None
    batch_seconds: float = 60.0
    long_seconds: float = 120.0
    audio_column: str = "audio"

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sampling_rate


class _LeftOutError(Exception):
    """A clip that the run's limits leave out."""


def read_group(group: pa.Table, options: ReadOptions) -> Iterator[Batch]:
    """Yield the audio of a group's clips, in batches.

    Parameters
    ----------
    group
        Clips, with the columns of `bulk.sources.PLACE`.
    options
        How they are read.

    Yields
    ------
    Batch
        Together they end each clip once, or have a fault of it.
    """
    reader = _Reader(options)
    rows = group.select(["place", "member", "size", "offset", "duration", "channel"]).to_pylist()
    for numbers, opened in recordings(rows, options.audio_column):
        yield from reader.recording(opened, [(number, rows[number]) for number in numbers])
    yield reader.batcher.take()


class GroupReader:
    """`read_group` as an actor.

    Parameters
    ----------
    options
        How clips are read.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options

    def read(self, group: pa.Table) -> Iterator[Batch]:
        """Yield the audio of a group's clips, in batches."""
        yield from read_group(group, self._options)


class _Reader:
    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.batcher = Batcher(round(options.batch_seconds * options.sample_rate))

    def recording(
        self, opened: Opened | Exception, clips: Sequence[tuple[int, Row]]
    ) -> Iterator[Batch]:
        """Read the clips of one recording."""
        if isinstance(opened, Exception):
            for number, _ in clips:
                self.batcher.fault(number, _reason(opened))
            return
        channels = dict.fromkeys(row["channel"] for _, row in clips)
        with contextlib.ExitStack() as stack:
            if not isinstance(opened, (bytes, Path)):
                stack.callback(opened.close)
            for channel in channels:
                chosen = [(number, row) for number, row in clips if row["channel"] == channel]
                left = {number for number, _ in chosen}
                use = self.options.channel if channel is None else channel
                try:
                    with SoundSource(opened, channel=use) as sound:
                        yield from self._segments(sound, chosen, left)
                except (AudioError, OSError) as error:
                    for number in sorted(left):
                        self.batcher.fault(number, _reason(error))

    def _segments(
        self, sound: SoundSource, clips: Sequence[tuple[int, Row]], left: set[int]
    ) -> Iterator[Batch]:
        """Read segments; a clip leaves ``left`` when it is over."""
        segments = []
        for number, row in clips:
            try:
                segment = Segment(number, row, sound.sample_rate, sound.frames)
                self._check_most(self._known_seconds(segment, sound))
                segments.append(segment)
            except (AudioError, _LeftOutError) as error:
                left.discard(number)
                self._fault(number, error)
        if len(segments) == 1:
            only = (block for _, block, _ in cut(sound, segments))
            yield from self._clip(segments[0].clip, only, sound.sample_rate, left)
        elif segments:
            held: dict[int, list[Samples]] = {segment.clip: [] for segment in segments}
            for segment, block, over in cut(sound, segments):
                held[segment.clip].append(block)
                if over:
                    whole = held.pop(segment.clip)
                    yield from self._clip(segment.clip, whole, sound.sample_rate, left)

    def _clip(
        self, number: int, blocks: Iterable[Samples], rate: int, left: set[int]
    ) -> Iterator[Batch]:
        try:
            yield from self._audio(number, resampled(blocks, rate, self.options.sample_rate))
        except (AudioError, _LeftOutError) as error:
            self._fault(number, error)
        left.discard(number)
        if self.batcher.full:
            yield self.batcher.take()

    def _audio(self, number: int, blocks: Iterator[Samples]) -> Iterator[Batch]:
        options = self.options
        held: list[Samples] = []
        samples, long = 0, None
        most = options.long_seconds * options.sample_rate
        for block in blocks:
            samples += len(block)
            self._check_most(samples / options.sample_rate)
            if long is None:
                held.append(block)
                if samples > most:
                    long = LongClip(options.config, options.core_samples)
                    for one in held:
                        long.add(one)
            else:
                long.add(block)
            while long is not None and long.ready:
                self.batcher.add(number, *long.take())
                if self.batcher.full:
                    yield self.batcher.take()
        if samples < options.min_seconds * options.sample_rate:
            raise _LeftOutError(
                f"it lasts {samples / options.sample_rate:.3f} s, and --min-seconds is "
                f"{options.min_seconds:g}"
            )
        if long is not None:
            self.batcher.add(number, *long.rest())
        else:
            self.batcher.add(number, check_samples(np.concatenate([*held, _NOTHING])))
        self.batcher.end(number, samples)

    def _known_seconds(self, segment: Segment, sound: SoundSource) -> float:
        """Return how long a segment is, 0 where its recording does not say."""
        stop = segment.stop if segment.stop is not None else sound.frames
        return max(0, (stop or 0) - segment.start) / sound.sample_rate

    def _check_most(self, seconds: float) -> None:
        most = self.options.max_seconds
        if most is not None and seconds > most:
            raise _LeftOutError(f"it lasts at least {seconds:.3f} s, and --max-seconds is {most:g}")

    def _fault(self, number: int, error: Exception) -> None:
        self.batcher.fault(number, _reason(error), failed=not isinstance(error, _LeftOutError))


_NOTHING = np.empty(0, np.float32)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__

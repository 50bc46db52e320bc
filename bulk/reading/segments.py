"""Segments of a recording, each resampled by itself, while the recording is decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bulk.reading.containers import Row
from snac_core.audio import SoundSource
from snac_core.errors import AudioError
from snac_core.types import Samples

SLACK_SECONDS = 0.02
"""How far a length in a manifest may be from the recording's own: manifests round."""


class Segment:
    """A stretch of a recording.

    Attributes
    ----------
    clip
        Number of the clip in its group.
    start, stop
        Samples at the recording's own rate; ``stop`` is None for the recording's end.
    """

    def __init__(self, clip: int, row: Row, sample_rate: int, frames: int | None) -> None:
        offset, duration = row["offset"], row["duration"]
        self.clip = clip
        self.start = round((offset or 0.0) * sample_rate)
        self.stop: int | None = None
        if duration is not None:
            if not duration > 0 or self.start < 0:
                raise AudioError(f"a segment of {duration} s from {offset or 0} s holds no audio")
            self.stop = round(((offset or 0.0) + duration) * sample_rate)
            slack = SLACK_SECONDS * sample_rate
            if frames is not None and abs(self.stop - frames) <= slack and not self.start:
                self.stop = None
            elif frames is not None and frames < self.stop <= frames + slack:
                self.stop = frames
        if frames is not None and (self.stop or self.start + 1) > frames:
            raise AudioError(
                f"the segment from {offset or 0} s to {(offset or 0) + (duration or 0):g} s is not "
                f"within the recording, which lasts {frames / sample_rate:.3f} s"
            )


def cut(sound: SoundSource, segments: Sequence[Segment]) -> Iterator[tuple[Segment, Samples, bool]]:
    """Yield the audio of segments block by block, and with each block whether it is the last.

    The recording is decoded once. Segments may overlap; blocks of one are in order.

    Raises
    ------
    AudioError
        When the recording is damaged, or ends before a segment does.
    """
    waiting = sorted(segments, key=lambda one: one.start, reverse=True)
    active: list[Segment] = []
    at = 0
    for block in sound.mono_blocks():
        end = at + len(block)
        while waiting and waiting[-1].start < end:
            active.append(waiting.pop())
        for one in list(active):
            over = one.stop is not None and one.stop <= end
            yield (
                one,
                block[max(0, one.start - at) : None if one.stop is None else one.stop - at],
                over,
            )
            if over:
                active.remove(one)
        at = end
        if not waiting and not active:
            return
    for one in active:
        if one.stop is not None:
            raise AudioError(
                f"the segment ends at {one.stop / sound.sample_rate:.3f} s, and the recording at "
                f"{at / sound.sample_rate:.3f} s"
            )
        yield one, block[:0], True
    if waiting:
        raise AudioError(
            f"the segment begins at {waiting[-1].start / sound.sample_rate:.3f} s, and the "
            f"recording ends at {at / sound.sample_rate:.3f} s"
        )

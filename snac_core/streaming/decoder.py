"""Streams: codes to audio and audio to codes while they come, the same as all at once.

A stream is worked through in steps of one coarse frame (of whole attention windows where a
model has attention). Each step is a job for `Codec.run`: steps of many streams make one
batch, wherever in their clips those streams are, and nothing is computed twice
(`snac_core.streaming.layers`).

>>> decoder = StreamingDecoder(codec)
>>> for levels in frames:
...     play(decoder.feed(levels))
>>> play(decoder.flush())
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from snac_core.codec import Codec, check_noise
from snac_core.codes import check_levels
from snac_core.errors import CodesError
from snac_core.inference.jobs import Job
from snac_core.inference.windows import Window
from snac_core.streaming.base import Stream
from snac_core.streaming.buffer import Fifo
from snac_core.streaming.steps import DecodeStep
from snac_core.types import Incomplete, NoiseMode, Samples


class StreamingDecoder(Stream):
    """Codes in, whole coarse frames at a time; audio out, the same as `Codec.decode`'s.

    One thread feeds it and takes its steps, another may run them. Audio leaves once codes have
    come that reach `lookahead` samples further; at the end, the rest of it leaves.

    Parameters
    ----------
    codec
        The model; a stream stays with it to its end.
    noise, seed
        As `Codec.decode` takes them.
    lookahead_frames
        None for audio that equals `Codec.decode`'s. Fewer coarse frames than that needs make
        the audio leave earlier, after this many more frames than it belongs to, as it would
        be if the codes ended there: an approximation, at the cost of computing some of it
        more than once. From 0 up.

    Raises
    ------
    ValueError
        For a noise mode, a seed or ``lookahead_frames`` that cannot be.
    """

    def __init__(
        self,
        codec: Codec,
        noise: NoiseMode = "seeded",
        seed: int = 0,
        lookahead_frames: int | None = None,
    ) -> None:
        check_noise(noise, seed)
        if lookahead_frames is not None and lookahead_frames < 0:
            raise ValueError(f"lookahead_frames must be at least 0, not {lookahead_frames}")
        super().__init__(codec, "decode")
        self.noise, self.seed, self.lookahead_frames = noise, seed, lookahead_frames
        exact = self.network.delay
        self._behind = exact
        if lookahead_frames is not None:
            self._behind = min(exact, lookahead_frames * self.config.frame_samples)
        # Samples after each step's own that are computed from no codes, in whole steps.
        self.speculative = self.config.padded_samples(exact - self._behind)
        self._codes = [Fifo(np.int32) for _ in self.config.vq_strides]
        self._num_samples: int | None = None
        self._known = self._given = 0

    def push(self, levels: Sequence[Any]) -> None:
        """Add whole coarse frames of codes, at least one.

        Raises
        ------
        CodesError
            Naming the level, the index in what was pushed, the value and the legal range of
            a wrong code, or the lengths that do not fit. Nothing is added then.
        RuntimeError
            When the stream is closed.
        """
        self._need_open()
        checked = check_levels(levels, self.config)
        for fifo, level in zip(self._codes, checked, strict=True):
            fifo.append(level)
        frames = len(checked[0]) // self.config.codes_per_frame[0]
        self._pushed += frames * self.config.frame_samples

    def close(self, num_samples: int | None = None, incomplete: Incomplete = "refuse") -> None:
        """Say that no more codes come. A stream without any codes has no audio either.

        Parameters
        ----------
        num_samples
            Samples of the whole clip to give; None gives all that the codes hold.
        incomplete
            ``drop`` leaves out frames that do not fill the last attention window.

        Raises
        ------
        CodesError
            For ``num_samples`` beyond what the codes hold, or fewer than were pulled before;
            and where the codes do not fill the attention windows of a model that has them.
        RuntimeError
            When the stream is closed already.
        """
        self._need_open()
        extra = self._pushed % self.config.pad_multiple
        if extra and incomplete == "drop":
            self._drop_last(extra // self.config.frame_samples)
        elif extra:
            frames = self.config.pad_multiple // self.config.frame_samples
            raise CodesError(
                f"the stream has {self._pushed // self.config.frame_samples} coarse frames; "
                f"this model's attention needs a multiple of {frames}"
            )
        if num_samples is None:
            num_samples = self._pushed
        least = max(self._given, min(1, self._pushed))
        if not least <= num_samples <= self._pushed:
            raise CodesError(
                f"num_samples {num_samples} is outside {least}..{self._pushed}, from what was "
                "given out to what the codes hold"
            )
        self._num_samples = num_samples
        self._end = self._pushed

    def _drop_last(self, frames: int) -> None:
        """Forget the last frames, none of which is in a step yet."""
        for index, count in enumerate(self.config.codes_per_frame):
            kept = Fifo(np.int32)
            kept.append(self._codes[index].take(len(self._codes[index]) - frames * count))
            self._codes[index] = kept
        self._pushed -= frames * self.config.frame_samples

    def take_step(self) -> Job | None:
        """Return the next step as a job for `Codec.run`; None until input or the last step came.

        A step whose run failed may be run again.
        """
        if self._running or not self.ready:
            return None
        frames = self.config.pad_multiple // self.config.frame_samples
        fed = tuple(
            fifo.take(frames * count)
            for fifo, count in zip(self._codes, self.config.codes_per_frame, strict=True)
        )
        return DecodeStep(self, self._next_start(), fed)

    def pull(self) -> Samples:
        """Return the audio made and not pulled yet: float32, one-dimensional, maybe empty."""
        audio = np.concatenate([np.zeros(0, np.float32), *self._drain()])
        if self._num_samples is not None:
            audio = audio[: self._num_samples - self._given]
        self._given += len(audio)
        return audio

    def feed(self, levels: Sequence[Any]) -> Samples:
        """Push ``levels``, run what can run, and pull."""
        self.push(levels)
        return self._run()

    def flush(self, num_samples: int | None = None) -> Samples:
        """Close, run the rest, and pull."""
        self.close(num_samples)
        return self._run()

    def _run(self) -> Samples:
        while (job := self.take_step()) is not None:
            self.codec.run(job.steps)
        return self.pull()

    def _needed(self) -> int:
        return self._num_samples or 0

    def made(self, window: Window, late: Samples) -> None:
        """Keep what is due of the audio of the step that was fed ``window``."""
        first = window.start - self.network.delay
        flushing = window.stop > self._pushed
        stop = window.stop - (self.network.delay if flushing else self._behind)
        stop = max(self._known, stop)
        part = late[self._known - first : stop - first]
        self._known = stop
        # A copy, as the batch that it is a part of may be large and the reader slow.
        self._step_ran(part.copy())

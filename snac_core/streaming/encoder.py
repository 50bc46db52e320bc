"""Streaming encode: samples in, whole frames of codes out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from snac_core.audio import check_sample_rate, check_samples
from snac_core.codec import Codec
from snac_core.inference.jobs import Job
from snac_core.inference.windows import Window
from snac_core.streaming.base import Stream
from snac_core.streaming.buffer import Fifo
from snac_core.streaming.steps import EncodeStep
from snac_core.types import Levels, Samples


class StreamingEncoder(Stream):
    """Samples in, at any rate; codes out, whole coarse frames at a time, as `Codec.encode`'s.

    One thread feeds it and takes its steps, another may run them. A frame leaves once
    `lookahead` more samples than it covers have come; at the end, the rest of them leave.

    Parameters
    ----------
    codec
        The model; a stream stays with it to its end.
    sample_rate
        Hz of what is pushed; None for the model's own. Other rates are resampled as
        `snac_core.audio.read` does.

    Raises
    ------
    AudioError
        For an absurd sample rate.
    """

    def __init__(self, codec: Codec, sample_rate: int | None = None) -> None:
        super().__init__(codec, "encode")
        own = self.config.sampling_rate
        self.sample_rate = own if sample_rate is None else sample_rate
        check_sample_rate(self.sample_rate)
        self._resampler = (
            None
            if self.sample_rate == own
            else soxr.ResampleStream(self.sample_rate, own, 1, dtype="float32", quality="HQ")
        )
        self._audio = Fifo(np.float32)
        self._received = 0

    @property
    def num_samples(self) -> int:
        """Samples at the model's rate that came so far; once closed, those of the clip."""
        return self._pushed

    def push(self, samples: object) -> None:
        """Add samples, any number of them.

        Raises
        ------
        AudioError
            Unless they are a one-dimensional array of finite floats. Nothing is added then.
        RuntimeError
            When the stream is closed.
        """
        self._need_open()
        if isinstance(samples, np.ndarray) and samples.shape == (0,):
            return
        checked = check_samples(samples)
        self._received += len(checked)
        self._add(checked if self._resampler is None else self._resampler.resample_chunk(checked))

    def close(self) -> None:
        """Say that no more samples come. A stream without any samples has no codes either.

        Raises
        ------
        RuntimeError
            When the stream is closed already.
        """
        self._need_open()
        if self._resampler is not None and self._received:
            self._add(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        self._end = self.config.padded_samples(self._pushed)

    def take_step(self) -> Job | None:
        """Return the next step as a job for `Codec.run`; None until input or the last step came.

        A step whose run failed may be run again.
        """
        if self._running or not self.ready:
            return None
        fed = self._audio.take(self.config.pad_multiple)
        return EncodeStep(self, self._next_start(), fed)

    def pull(self) -> list[npt.NDArray[np.int32]]:
        """Return the codes made and not pulled yet: one int32 array per level, maybe empty."""
        none = tuple(np.zeros(0, np.int32) for _ in self.config.vq_strides)
        return [np.concatenate(parts) for parts in zip(none, *self._drain(), strict=True)]

    def feed(self, samples: object) -> list[npt.NDArray[np.int32]]:
        """Push ``samples``, run what can run, and pull."""
        self.push(samples)
        return self._run()

    def flush(self) -> list[npt.NDArray[np.int32]]:
        """Close, run the rest, and pull."""
        self.close()
        return self._run()

    def _run(self) -> list[npt.NDArray[np.int32]]:
        while (job := self.take_step()) is not None:
            self.codec.run(job.steps)
        return self.pull()

    def _needed(self) -> int:
        return self._end or 0

    def _add(self, samples: Samples) -> None:
        self._audio.append(samples)
        self._pushed += len(samples)

    def made(self, window: Window, late: Levels) -> None:
        """Keep what the clip has of the codes of the step that was fed ``window``."""
        frame = self.config.frame_samples
        first = (window.start - self.network.delay) // frame
        skip = max(0, -first)
        frames = self.config.pad_multiple // frame
        if self._end is not None:
            frames = min(frames, self._end // frame - first)
        self._step_ran(
            tuple(
                level[skip * count : frames * count].copy()
                for level, count in zip(late, self.config.codes_per_frame, strict=True)
            )
        )

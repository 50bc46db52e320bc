"""Encoding streams: audio in, codes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import WebSocket

from service.errors import InvalidRequestError
from service.runtime.service import Service
from service.runtime.streams import Stream
from service.websocket.messages import EncodeStart, End, check, parse_json
from service.websocket.pcm import PcmReader
from service.websocket.session import Session, described
from snac_core.audio import check_sample_rate
from snac_core.audio.source import BLOCK_SAMPLES
from snac_core.codec import Codec
from snac_core.layouts import token_writer
from snac_core.layouts.writer import TokenWriter
from snac_core.streaming import StreamingEncoder
from snac_core.streaming.buffer import Fifo


class EncodeSession(Session[EncodeStart]):
    """PCM in, codes out."""

    kind = "encode"
    start_type = EncodeStart
    _codec: Codec
    _pcm: PcmReader
    _encoder: StreamingEncoder
    _writer: TokenWriter
    _rate: int

    def __init__(self, websocket: WebSocket, service: Service, stream: Stream) -> None:
        super().__init__(websocket, service, stream)
        self._ended = False
        self._waiting = Fifo(np.float32)

    @classmethod
    def check(cls, codec: Codec, start: EncodeStart) -> None:
        """Check the sample rate as well; raises AudioError if it is out of range."""
        super().check(codec, start)
        if start.sample_rate is not None:
            check_sample_rate(start.sample_rate)

    def prepare(self, codec: Codec, start: EncodeStart) -> dict[str, Any]:
        """Create the encoder and writer; returns the content of "ready"."""
        self._codec = codec
        self._rate = codec.sample_rate if start.sample_rate is None else start.sample_rate
        self._pcm = PcmReader(start.encoding)
        self._encoder = StreamingEncoder(codec, self._rate)
        self._writer = token_writer(start.layout, codec.config, start.base)
        return {
            **described(codec, start.layout, start.base),
            "encoding": start.encoding,
            "input_sample_rate": self._rate,
            "lookahead_samples": self._encoder.network.delay,
        }

    async def take(self, message: str | bytes) -> None:
        """Process a message: PCM, or the end."""
        if self._ended:
            raise InvalidRequestError("nothing may follow the end")
        if isinstance(message, str):
            value = parse_json(message, self.service.settings.max_json_depth)
            end = check(End, value)
            if end.num_samples is not None:
                raise InvalidRequestError("num_samples: a stream of audio has as many as it has")
            if end.incomplete == "refuse":
                self._pcm.finish()
            self._ended = True
            return
        samples = self._pcm.read(message)
        if len(samples):
            self._waiting.append(samples)
            self.stream.received()

    async def work(self) -> dict[str, Any]:
        """Encode until the end of input; returns the content of "done"."""
        while not self._encoder.closed:
            await self.wait_for_input()
            await self._absorb()
            while (step := self._encoder.take_step()) is not None or len(self._waiting):
                if step is not None:
                    await self.service.streams.run(self.stream, self._codec, step)
                    await self._answer(self._encoder.pull())
                await self._absorb()
        last = self._writer.finish()
        if last:
            await self._send_codes(self._writer.frames_written, last)
        return {
            "num_samples": self._encoder.num_samples,
            "sample_rate": self._codec.sample_rate,
            "duration": self._encoder.num_samples / self._codec.sample_rate,
            "frames": self._writer.frames_written,
        }

    def held_seconds(self) -> float:
        """Audio that is not encoded yet."""
        return len(self._waiting) / self._rate + self._ready_seconds()

    def _ready_seconds(self) -> float:
        return self._encoder.ready * self._codec.config.pad_multiple / self._codec.sample_rate

    async def _absorb(self) -> None:
        """Pass samples to the encoder, and the end once no samples precede it.

        One message at a low sample rate may hold many minutes of audio, which take a hundred
        times the memory when resampled. So at most ``SNAC_STREAM_BUFFER_SECONDS`` are passed on
        at a time, and at most one block, which bounds the time that a stream occupies a thread.
        """
        if self._encoder.closed:
            return
        room = self.service.settings.stream_buffer_seconds - self._ready_seconds()
        most = max(0 if self._encoder.ready else 1, round(room * self._rate))
        samples = self._waiting.take(min(most, len(self._waiting), BLOCK_SAMPLES))
        if len(samples):
            # Resampling in a thread, so that it does not block the event loop.
            await self.service.io.run(self._encoder.push, samples)
        if self._ended and not len(self._waiting):
            await self.service.io.run(self._encoder.close)
        self.update_backpressure()

    async def _answer(self, levels: Sequence[npt.NDArray[np.int32]]) -> None:
        if not len(levels[0]):
            return
        frame = self._writer.frames_written
        codes = self._writer.write(tuple(levels))
        await self._send_codes(frame, codes)
        seconds = len(levels[0]) * self._codec.config.frame_samples / self._codec.sample_rate
        self.stream.sent(seconds / self._codec.config.codes_per_frame[0])

    async def _send_codes(self, frame: int, codes: list[Any]) -> None:
        await self.send_json({"type": "codes", "frame": frame, "codes": codes})

"""Decoding streams: tokens in, audio out."""

from __future__ import annotations

from typing import Any

from fastapi import WebSocket

from service.errors import InvalidRequestError
from service.runtime.service import Service
from service.runtime.streams import Stream
from service.websocket.messages import DecodeStart, End, check, parse_json, tokens_of
from service.websocket.pcm import write_pcm
from service.websocket.session import Session, described
from snac_core.codec import Codec
from snac_core.errors import CodesError
from snac_core.layouts import find_layout, token_reader
from snac_core.layouts.lanes import TokenReader
from snac_core.streaming import StreamingDecoder
from snac_core.types import Samples


class DecodeSession(Session[DecodeStart]):
    """Tokens in, PCM out."""

    kind = "decode"
    start_type = DecodeStart
    _start: DecodeStart
    _codec: Codec
    _reader: TokenReader
    _decoder: StreamingDecoder

    def __init__(self, websocket: WebSocket, service: Service, stream: Stream) -> None:
        super().__init__(websocket, service, stream)
        self._end: End | None = None
        self._failure: CodesError | None = None
        """A wrong token: what came before it is decoded and sent first."""
        self._pulled = self._sent = 0

    def prepare(self, codec: Codec, start: DecodeStart) -> dict[str, Any]:
        """Create the reader and decoder; returns the content of "ready"."""
        self._codec, self._start = codec, start
        self._reader = token_reader(start.layout, codec.config, start.base, start.invalid)
        self._is_text = find_layout(start.layout).name == "orpheus-text"
        self._decoder = StreamingDecoder(codec, start.noise, start.seed, start.lookahead_frames)
        exact, frames = self._decoder.network.delay, start.lookahead_frames
        config = codec.config
        if frames is not None:
            # What is not waited for is guessed, and computed again once it is there.
            ahead = max(0, exact - frames * config.frame_samples)
            self.stream.price = 1 + config.padded_samples(ahead) / config.pad_multiple
        return {
            **described(codec, start.layout, start.base),
            "format": start.format,
            "lookahead_samples": exact
            if frames is None
            else min(exact, frames * codec.config.frame_samples),
        }

    async def take(self, message: str | bytes) -> None:
        """Process a message: tokens, or the end."""
        if self._failure is not None:
            return
        if self._end is not None:
            raise InvalidRequestError("nothing may follow the end")
        before = self._reader.tokens
        try:
            self._push(message)
        except CodesError as error:
            self._failure = error
        if self._reader.tokens > before:
            self.stream.received()

    def _push(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._reader.push_raw(message)
            return
        if self._is_text and message.lstrip()[:1] not in ("{", "[", '"'):
            self._reader.push(message)
            return
        value = parse_json(message, self.service.settings.max_json_depth)
        if isinstance(value, dict) and value.get("type") == "end":
            self._finish(check(End, value))
            self.stream.touch()
        else:
            self._reader.push(tokens_of(value))

    async def work(self) -> dict[str, Any]:
        """Decode until the end of input; returns the content of "done"."""
        while not self._decoder.closed:
            await self.wait_for_input()
            self._absorb()
            while (step := self._decoder.take_step()) is not None:
                await self.service.streams.run(self.stream, self._codec, step)
                await self._answer(self._decoder.pull())
                self._absorb()
        if self._failure is not None:
            raise self._failure
        return {
            "num_samples": self._sent,
            "duration": self._sent / self._codec.sample_rate,
            "frames": self._reader.frames_taken,
            "frames_skipped": self._reader.frames_skipped,
            "tokens": self._reader.tokens,
        }

    def held_seconds(self) -> float:
        """Audio of complete frames that are not decoded yet."""
        config = self._codec.config
        waiting = self._reader.frames * config.frame_samples
        return (waiting + self._decoder.ready * config.pad_multiple) / config.sampling_rate

    def _absorb(self) -> None:
        """Pass complete frames to the decoder, and the end once no frame precedes it."""
        if self._decoder.closed:
            return
        levels = self._reader.take()
        if levels is not None:
            self._decoder.push(levels)
        if self._failure is not None:
            self._decoder.close(incomplete="drop")
        elif self._end is not None:
            try:
                self._decoder.close(self._wanted(self._end), self._end.incomplete)
            except CodesError as error:
                self._failure = error
                self._decoder.close(incomplete="drop")
        self.update_backpressure()

    def _wanted(self, end: End) -> int | None:
        if self._start.num_samples is None:
            return end.num_samples
        return max(self._start.num_samples, self._pulled)

    def _finish(self, end: End) -> None:
        if end.num_samples is not None and self._start.num_samples is not None:
            raise InvalidRequestError("num_samples: the start has named it already")
        if end.incomplete == "refuse":
            self._reader.finish()
        self._end = end

    async def _answer(self, samples: Samples) -> None:
        self._pulled += len(samples)
        if self._start.num_samples is not None:
            samples = samples[: self._start.num_samples - self._sent]
        if not len(samples):
            return
        rate = self._codec.sample_rate
        self.stream.held_seconds += len(samples) / rate
        await self.send_bytes(write_pcm(samples, rate, self._start.format))
        self.stream.sent(len(samples) / rate)
        self._sent += len(samples)
        self.update_backpressure()

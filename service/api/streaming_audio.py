"""Audio that is sent as it is decoded: the answer of `POST /v1/decode?stream=true`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.content_negotiation import AUDIO_FORMATS
from service.api.schemas import DecodeOptions
from service.concurrency import run_until_first_complete, wait_for_disconnect
from service.problems import INTERNAL, problem_type
from service.runtime.service import Service
from service.runtime.streams import Stream
from service.websocket.pcm import write_pcm
from snac_core import audio
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.streaming import StreamingDecoder

log = structlog.get_logger(__name__)

STREAMED = ("audio/wav", "audio/pcm")
"""Media types that can be sent before the audio is whole."""


class StreamingAudioResponse(Response):
    """An answer that has its place among the streams until its last byte.

    The length is known from the codes, so that the bytes are those of the answer that is not
    streamed. An error before the first audio is a problem like any other; a later one ends
    the connection before the answer does, which a client sees as an answer cut short.

    Parameters
    ----------
    media
        One of `STREAMED`.

    Raises
    ------
    CodesError
        For codes that the model's attention windows do not divide.
    """

    def __init__(
        self,
        request: Request,
        service: Service,
        codec: Codec,
        codes: Codes,
        options: DecodeOptions,
        media: str,
    ) -> None:
        counts = {"X-Num-Samples": codes.num_samples, "X-Sample-Rate": codec.sample_rate}
        super().__init__(None, 200, {name: str(value) for name, value in counts.items()}, media)
        del self.headers["Content-Length"]
        self._request, self._service, self._codec = request, service, codec
        self._num_samples = codes.num_samples
        self._decoder = StreamingDecoder(codec, options.noise, options.seed)
        self._decoder.push(codes.levels)
        self._decoder.close(codes.num_samples)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI calls it."""
        begun = False

        async def answer() -> None:
            nonlocal begun
            chunks = self._chunks(stream)
            first = await self._service.in_time(self._request, anext(chunks))
            begun = True
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            await self._send(send, stream, first)
            async for chunk in chunks:
                await self._send(send, stream, chunk)
            await send({"type": "http.response.body", "body": b""})

        with self._service.streams.open("decode-http", self._request.state.caller) as stream:
            stream.received()
            try:
                await run_until_first_complete(
                    answer(), stream.watch(), wait_for_disconnect(receive)
                )
            except Exception as error:
                if not begun:
                    raise
                kind = problem_type(error)
                self._request.state.outcome = kind.name
                stream.outcome = kind.name
                if kind is INTERNAL:
                    log.exception("stream failed")

    async def _chunks(self, stream: Stream) -> AsyncIterator[bytes]:
        rate = self._codec.sample_rate
        if AUDIO_FORMATS[str(self.media_type)] == "wav":
            head = audio.wav_header(rate, self._num_samples)
        else:
            head = b""
        while (step := self._decoder.take_step()) is not None:
            steps = self._decoder.ready * self._codec.config.pad_multiple
            stream.held_seconds = steps / rate
            await self._service.streams.run(stream, self._codec, step)
            samples = self._decoder.pull()
            if len(samples):
                yield head + write_pcm(samples, rate, "s16le")
                stream.sent(len(samples) / rate)
                head = b""

    @staticmethod
    async def _send(send: Send, stream: Stream, chunk: bytes) -> None:
        stream.sending = True
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        stream.sending = False

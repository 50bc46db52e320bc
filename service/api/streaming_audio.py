"""Audio sent while it is decoded: the response of `POST /v1/decode?stream=true`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.content_negotiation import AUDIO_FORMATS, audio_type
from service.api.requests import Call
from service.api.schemas import DecodeOptions
from service.concurrency import run_until_first_complete, wait_for_disconnect
from service.problems import INTERNAL, problem_type
from service.runtime.streams import Stream
from snac_core import audio
from snac_core.codes import Codes
from snac_core.streaming import StreamingDecoder

log = structlog.get_logger(__name__)

STREAMED = ("audio/wav", "audio/pcm")
"""Media types that can be sent before the audio is complete."""


class StreamingAudioResponse(Response):
    """A response that counts as an open stream until its last byte.

    The codes determine the length, so the bytes equal those of the response without streaming. An
    error before the first audio is a normal problem response; a later one closes the connection
    early, which the client sees as an incomplete response.

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
        call: Call,
        codes: Codes,
        options: DecodeOptions,
        media: str,
    ) -> None:
        codec = call.codec
        counts = {"X-Num-Samples": codes.num_samples, "X-Sample-Rate": codec.sample_rate}
        super().__init__(None, 200, {name: str(value) for name, value in counts.items()})
        self.headers["Content-Type"] = audio_type(media, codec.sample_rate)
        del self.headers["Content-Length"]
        self._call, self._codec, self._format = call, codec, AUDIO_FORMATS[media]
        self._num_samples = codes.num_samples
        self._decoder = StreamingDecoder(codec, options.noise, options.seed)
        self._decoder.push(codes.levels)
        self._decoder.close(codes.num_samples)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        begun = False

        async def answer() -> None:
            nonlocal begun
            chunks = self._chunks(stream)
            first = await self._call.before_deadline(anext(chunks))
            begun = True
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            await self._send(send, stream, first)
            async for chunk in chunks:
                await self._send(send, stream, chunk)
            await send({"type": "http.response.body", "body": b""})

        state, streams = self._call.state, self._call.service.streams
        with streams.open("decode-http", state.caller or "") as stream:
            stream.received()
            try:
                await run_until_first_complete(
                    answer(), stream.watch(), wait_for_disconnect(receive)
                )
            except Exception as error:
                if not begun:
                    raise
                kind = problem_type(error)
                state.outcome = stream.outcome = kind.name
                if kind is INTERNAL:
                    log.exception("stream failed")

    async def _chunks(self, stream: Stream) -> AsyncIterator[bytes]:
        rate = self._codec.sample_rate
        head = audio.wav_header(rate, self._num_samples) if self._format == "wav" else b""
        while (step := self._decoder.take_step()) is not None:
            steps = self._decoder.ready * self._codec.config.pad_multiple
            stream.held_seconds = steps / rate
            await self._call.service.streams.run(stream, self._codec, step)
            samples = self._decoder.pull()
            if len(samples):
                yield head + audio.encode_bytes(samples, rate, "pcm")
                stream.sent(len(samples) / rate)
                head = b""

    @staticmethod
    async def _send(send: Send, stream: Stream, chunk: bytes) -> None:
        stream.sending = True
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        stream.sending = False

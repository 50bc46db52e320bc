"""Python clients of the service, for threads (`SnacClient`) and for asyncio.

with SnacClient("http://127.0.0.1:8000") as client:
    encoded = client.encode(open("speech.wav", "rb").read())
    samples = client.decode(encoded.codes)
    for part in client.stream_decode(tokens_of_a_language_model, layout="orpheus"):
        play(part)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from service.client.calls import Encoded, ProblemError, RequestBuilder
from service.client.streams import (
    Stream,
    Tokens,
    decoding,
    encoding,
    run,
)
from snac_core.codes import Codes
from snac_core.types import NoiseMode, Samples


class SnacClient(RequestBuilder):
    """A client for threads.

    Every call raises `ProblemError` for an answer that is a problem.

    Parameters
    ----------
    base_url
        Such as ``http://127.0.0.1:8000``.
    api_key
        If the service asks for one.
    timeout
        Seconds for one answer, or for one message of a stream.
    retries
        How often to try again after 429 and 503, waiting as long as ``Retry-After`` says.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 900.0, retries: int = 3
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.Client(base_url=base_url, timeout=timeout, headers=self._headers)

    def encode(self, source: bytes | Samples, sample_rate: int | None = None) -> Encoded:
        """Return the codes of an audio file's bytes, or of float samples at ``sample_rate``."""
        return self._encoded(self._post(self._encode_request(source, sample_rate)))

    def encode_batch(
        self, sources: Sequence[bytes | Samples], sample_rate: int | None = None
    ) -> list[Encoded | ProblemError]:
        """Encode many at once; in place of one that fails stands its problem."""
        request = self._encode_batch_request(sources, sample_rate)
        return self._encoded_batch(self._post(request))

    def decode(
        self,
        codes: Codes,
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> Samples:
        """Return the audio of ``codes``: float32 samples at the codes' rate.

        Parameters
        ----------
        token_space
            That of the codes; the service refuses codes that its model would misread.
        """
        return self._samples(self._post(self._decode_request(codes, token_space, seed, noise)))

    def decode_batch(
        self,
        items: Sequence[Codes],
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> list[Samples | ProblemError]:
        """Decode many at once; in place of one that fails stands its problem."""
        request = self._decode_batch_request(items, token_space, seed, noise)
        return self._samples_batch(self._post(request))

    def stream_decode(
        self, tokens: Iterable[Tokens], layout: str = "hierarchical", **options: Any
    ) -> Stream[Samples]:
        """Return the audio of tokens while they come.

        Parameters
        ----------
        tokens
            Each item goes as one message: a token, a list or array of them, or for a layout
            of several lanes a list of one list each. They are drawn in a thread of their
            own, which ends with them.
        layout
            That of the tokens.
        options
            Other fields of the message "start": ``base``, ``token_space``, ``seed``,
            ``noise``, ``num_samples``, ``lookahead_frames``.

        Returns
        -------
        Stream
            Of float32 arrays; joined, they are what `decode` returns but for 16-bit rounding.
            Iterating raises what ``tokens`` raises, and `StreamClosedError` for a stream that
            is cut short.
        """
        exchange = decoding(self._base_url, {"layout": layout, **options})
        return Stream(exchange, run(exchange, tokens, self._headers, self._timeout, self._pause))

    def stream_encode(
        self,
        samples: Iterable[Samples],
        sample_rate: int,
        layout: str = "hierarchical",
        **options: Any,
    ) -> Stream[Any]:
        """Return the codes of float samples while they come.

        Parameters
        ----------
        samples
            Arrays of any length, drawn in a thread of their own.
        sample_rate
            Hz; any.
        layout
            That of the tokens that are returned.
        options
            Other fields of the message "start": ``base``, ``token_space``.

        Returns
        -------
        Stream
            Of an int64 array, or a tuple of one for each lane of the layout. It raises as
            that of `stream_decode` does.
        """
        start = {"sample_rate": sample_rate, "layout": layout, **options}
        exchange = encoding(self._base_url, start)
        return Stream(exchange, run(exchange, samples, self._headers, self._timeout, self._pause))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _post(self, request: dict[str, Any]) -> httpx.Response:
        attempt = 0
        while True:
            answer = self._http.post(**request)
            pause = self._pause_after(answer, attempt)
            if pause is None:
                return self._checked(answer)
            time.sleep(pause)
            attempt += 1

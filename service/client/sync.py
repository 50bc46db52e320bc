"""The synchronous Python client of the service.

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
    """The synchronous client.

    Every call raises `ProblemError` for a problem response.

    Parameters
    ----------
    base_url
        Such as ``http://127.0.0.1:8000``.
    api_key
        API key, if the service requires one.
    timeout
        Seconds to wait for a response, or for one message of a stream.
    retries
        Retries after 429 and 503, each after the seconds in ``Retry-After``.
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
        """Encode many files in one request; a failed one yields its ProblemError."""
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
            Token space of the codes; the service refuses codes of another one.
        """
        return self._samples(self._post(self._decode_request(codes, token_space, seed, noise)))

    def decode_batch(
        self,
        items: Sequence[Codes],
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> list[Samples | ProblemError]:
        """Decode many in one request; a failed one yields its ProblemError."""
        request = self._decode_batch_request(items, token_space, seed, noise)
        return self._samples_batch(self._post(request))

    def stream_decode(
        self, tokens: Iterable[Tokens], layout: str = "hierarchical", **options: Any
    ) -> Stream[Samples]:
        """Decode tokens as they become available.

        Parameters
        ----------
        tokens
            Each item is sent as one message: a token, a list or array of tokens, or for a
            layout with several lanes one list per lane. A separate thread iterates over them.
        layout
            Layout of the tokens.
        options
            Other fields of the message "start": ``base``, ``token_space``, ``seed``,
            ``noise``, ``num_samples``, ``lookahead_frames``.

        Returns
        -------
        Stream
            Float32 arrays; concatenated, they equal the result of `decode` up to 16-bit
            rounding. Iterating raises the errors of ``tokens``, and `StreamClosedError` for
            an incomplete stream.
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
        """Encode float samples as they become available.

        Parameters
        ----------
        samples
            Arrays of any length; a separate thread iterates over them.
        sample_rate
            Hz; any.
        layout
            Layout of the returned tokens.
        options
            Other fields of the message "start": ``base``, ``token_space``.

        Returns
        -------
        Stream
            Int64 arrays, or a tuple of one per lane of the layout. It raises the same errors
            as that of `stream_decode`.
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

"""The synchronous Python client of the service.

with SnacClient("http://127.0.0.1:8000") as client:
    encoded = client.encode("speech.wav")
    samples = client.decode(encoded.codes)
    for part in client.stream_decode(tokens_of_a_language_model, layout="orpheus"):
        play(part)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import httpx

from snac_core.audio import Channel
from snac_core.client.calls import (
    Encoded,
    EncodedTokens,
    ProblemError,
    Reconstructed,
    RequestBuilder,
    batches,
    halves,
)
from snac_core.client.inputs import AudioInput
from snac_core.client.streams import (
    Stream,
    Tokens,
    decoding,
    encoding,
    run,
)
from snac_core.codes import Codes
from snac_core.types import NoiseMode, Samples

T = TypeVar("T")
R = TypeVar("R")


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
        Retries after 429 and 503, each after the seconds in ``Retry-After``, and after a 500 or
        502 of a proxy.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 900.0, retries: int = 3
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.Client(base_url=base_url, timeout=timeout, headers=self._headers)

    @overload
    def encode(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        layout: None = None,
        base: int | None = None,
        channel: Channel = "average",
    ) -> Encoded: ...
    @overload
    def encode(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        layout: str,
        base: int | None = None,
        channel: Channel = "average",
    ) -> EncodedTokens: ...
    def encode(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        layout: str | None = None,
        base: int | None = None,
        channel: Channel = "average",
    ) -> Encoded | EncodedTokens:
        """Return the codes of a recording, or with ``layout`` its tokens.

        Parameters
        ----------
        source
            The bytes of an audio file, a path, a file open for binary reading, or samples: an
            array, tensor or list of floats within -1..1, or of int16 or int32, of one channel
            or, [T x channels] or [channels x T], of several.
        sample_rate
            Hz; of samples only.
        layout, base
            Layout of the tokens, and their token id of code 0.
        channel
            The channels' average, one by its index, or the loudest.

        Raises
        ------
        ValueError
            For samples without a rate, or of an unclear type or shape, naming it.
        """
        request = self._encode_request(source, sample_rate, layout, base, channel)
        answer = self._post(request)
        return self._encoded(answer) if layout is None else self._tokens(answer)

    def encode_batch(
        self,
        sources: Sequence[AudioInput],
        sample_rate: int | None = None,
        *,
        channel: Channel = "average",
    ) -> list[Encoded | ProblemError]:
        """Encode many recordings; a failed one yields its ProblemError.

        As many requests are sent, one after the other, as the service's limits ask for.
        """

        def send(items: Sequence[AudioInput]) -> list[Encoded | ProblemError]:
            request = self._encode_batch_request(items, sample_rate, channel)
            return self._encoded_batch(self._post(request))

        return self._in_batches(sources, send)

    def reconstruct(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        seed: int = 0,
        noise: NoiseMode = "seeded",
        channel: Channel = "average",
    ) -> Reconstructed:
        """Encode and decode a recording; ``source`` as for `encode`."""
        request = self._reconstruct_request(source, sample_rate, seed, noise, channel)
        return self._reconstructed(self._post(request))

    def decode(
        self,
        codes: Codes | EncodedTokens | Any,
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
        *,
        layout: str | None = None,
        base: int | None = None,
        num_samples: int | None = None,
    ) -> Samples:
        """Return the audio of codes or tokens: float32 samples at the model's rate.

        Parameters
        ----------
        codes
            `Codes`, what `encode` returned for a layout, or tokens in lists, arrays or tensors.
        token_space
            Token space of the codes; the service refuses codes of another one.
        layout, base, num_samples
            Of tokens: hierarchical unless named, and everything that they hold.
        """
        request = self._decode_request(codes, token_space, seed, noise, layout, base, num_samples)
        return self._samples(self._post(request))

    def decode_batch(
        self,
        items: Sequence[Codes],
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> list[Samples | ProblemError]:
        """Decode many, as `encode_batch` encodes; a failed one yields its ProblemError."""

        def send(some: Sequence[Codes]) -> list[Samples | ProblemError]:
            request = self._decode_batch_request(some, token_space, seed, noise)
            return self._samples_batch(self._post(request))

        return self._in_batches(items, send)

    def models(self) -> list[dict[str, Any]]:
        """Return what ``GET /v1/models`` says of each version that the service knows."""
        models: list[dict[str, Any]] = (self._send("GET", {"url": "/v1/models"})).json()["models"]
        return models

    def model(self) -> dict[str, Any]:
        """Return what ``GET /v1/models/current`` says of the model being served."""
        model: dict[str, Any] = (self._send("GET", {"url": "/v1/models/current"})).json()
        return model

    def health(self) -> dict[str, Any]:
        """Return what ``GET /health/ready`` says; asked once.

        Raises
        ------
        ProblemError
            With the reason, while the service takes no requests.
        """
        health: dict[str, Any] = self._checked(self._http.get("/health/ready")).json()
        return health

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

    def _in_batches(
        self, items: Sequence[T], send: Callable[[Sequence[T]], list[R | ProblemError]]
    ) -> list[R | ProblemError]:
        results: list[R | ProblemError] = []
        waiting = batches(items)[::-1]
        while waiting:
            batch = waiting.pop()
            try:
                results += send(batch)
            except ProblemError as error:
                parts = halves(batch, error)
                if parts is None:
                    results.append(error)
                else:
                    waiting += parts[::-1]
        return results

    def _post(self, request: dict[str, Any]) -> httpx.Response:
        return self._send("POST", request)

    def _send(self, method: str, request: dict[str, Any]) -> httpx.Response:
        attempt = 0
        while True:
            answer = self._http.request(method, **request)
            pause = self._pause_after(answer, attempt)
            if pause is None:
                return self._checked(answer)
            time.sleep(pause)
            attempt += 1

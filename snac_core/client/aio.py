"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
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
    AsyncStream,
    Tokens,
    decoding,
    encoding,
    run_async,
)
from snac_core.codes import Codes
from snac_core.types import NoiseMode, Samples

T = TypeVar("T")
R = TypeVar("R")


class AsyncSnacClient(RequestBuilder):
    """The asyncio client; parameters and errors as for `SnacClient`."""

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 900.0, retries: int = 3
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, headers=self._headers)

    @overload
    async def encode(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        layout: None = None,
        base: int | None = None,
        channel: Channel = "average",
    ) -> Encoded: ...
    @overload
    async def encode(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        layout: str,
        base: int | None = None,
        channel: Channel = "average",
    ) -> EncodedTokens: ...
    async def encode(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        layout: str | None = None,
        base: int | None = None,
        channel: Channel = "average",
    ) -> Encoded | EncodedTokens:
        """See `SnacClient.encode`."""
        request = self._encode_request(source, sample_rate, layout, base, channel)
        answer = await self._post(request)
        return self._encoded(answer) if layout is None else self._tokens(answer)

    async def encode_batch(
        self,
        sources: Sequence[AudioInput],
        sample_rate: int | None = None,
        *,
        channel: Channel = "average",
    ) -> list[Encoded | ProblemError]:
        """See `SnacClient.encode_batch`."""

        async def send(items: Sequence[AudioInput]) -> list[Encoded | ProblemError]:
            request = self._encode_batch_request(items, sample_rate, channel)
            return self._encoded_batch(await self._post(request))

        return await self._in_batches(sources, send)

    async def reconstruct(
        self,
        source: AudioInput,
        sample_rate: int | None = None,
        *,
        seed: int = 0,
        noise: NoiseMode = "seeded",
        channel: Channel = "average",
    ) -> Reconstructed:
        """See `SnacClient.reconstruct`."""
        request = self._reconstruct_request(source, sample_rate, seed, noise, channel)
        return self._reconstructed(await self._post(request))

    async def decode(
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
        """See `SnacClient.decode`."""
        request = self._decode_request(codes, token_space, seed, noise, layout, base, num_samples)
        return self._samples(await self._post(request))

    async def decode_batch(
        self,
        items: Sequence[Codes],
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> list[Samples | ProblemError]:
        """See `SnacClient.decode_batch`."""

        async def send(some: Sequence[Codes]) -> list[Samples | ProblemError]:
            request = self._decode_batch_request(some, token_space, seed, noise)
            return self._samples_batch(await self._post(request))

        return await self._in_batches(items, send)

    async def models(self) -> list[dict[str, Any]]:
        """See `SnacClient.models`."""
        models: list[dict[str, Any]] = (await self._send("GET", {"url": "/v1/models"})).json()[
            "models"
        ]
        return models

    async def model(self) -> dict[str, Any]:
        """See `SnacClient.model`."""
        model: dict[str, Any] = (await self._send("GET", {"url": "/v1/models/current"})).json()
        return model

    async def health(self) -> dict[str, Any]:
        """See `SnacClient.health`."""
        health: dict[str, Any] = self._checked(await self._http.get("/health/ready")).json()
        return health

    def stream_decode(
        self,
        tokens: Iterable[Tokens] | AsyncIterable[Tokens],
        layout: str = "hierarchical",
        **options: Any,
    ) -> AsyncStream[Samples]:
        """See `SnacClient.stream_decode`; a separate task iterates over the tokens."""
        exchange = decoding(self._base_url, {"layout": layout, **options})
        results = run_async(exchange, tokens, self._headers, self._timeout, self._pause)
        return AsyncStream(exchange, results)

    def stream_encode(
        self,
        samples: Iterable[Samples] | AsyncIterable[Samples],
        sample_rate: int,
        layout: str = "hierarchical",
        **options: Any,
    ) -> AsyncStream[Any]:
        """See `SnacClient.stream_encode`; a separate task iterates over the samples."""
        start = {"sample_rate": sample_rate, "layout": layout, **options}
        exchange = encoding(self._base_url, start)
        results = run_async(exchange, samples, self._headers, self._timeout, self._pause)
        return AsyncStream(exchange, results)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _in_batches(
        self, items: Sequence[T], send: Callable[[Sequence[T]], Awaitable[list[R | ProblemError]]]
    ) -> list[R | ProblemError]:
        results: list[R | ProblemError] = []
        waiting = batches(items)[::-1]
        while waiting:
            batch = waiting.pop()
            try:
                results += await send(batch)
            except ProblemError as error:
                parts = halves(batch, error)
                if parts is None:
                    results.append(error)
                else:
                    waiting += parts[::-1]
        return results

    async def _post(self, request: dict[str, Any]) -> httpx.Response:
        return await self._send("POST", request)

    async def _send(self, method: str, request: dict[str, Any]) -> httpx.Response:
        attempt = 0
        while True:
            answer = await self._http.request(method, **request)
            pause = self._pause_after(answer, attempt)
            if pause is None:
                return self._checked(answer)
            await asyncio.sleep(pause)
            attempt += 1

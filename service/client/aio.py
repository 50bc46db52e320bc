"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from service.client.calls import Encoded, ProblemError, RequestBuilder
from service.client.streams import (
    AsyncStream,
    Tokens,
    decoding,
    encoding,
    run_async,
)
from snac_core.codes import Codes
from snac_core.types import NoiseMode, Samples


class AsyncSnacClient(RequestBuilder):
    """The asyncio client; parameters and errors as for `SnacClient`."""

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 900.0, retries: int = 3
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, headers=self._headers)

    async def encode(self, source: bytes | Samples, sample_rate: int | None = None) -> Encoded:
        """See `SnacClient.encode`."""
        return self._encoded(await self._post(self._encode_request(source, sample_rate)))

    async def encode_batch(
        self, sources: Sequence[bytes | Samples], sample_rate: int | None = None
    ) -> list[Encoded | ProblemError]:
        """See `SnacClient.encode_batch`."""
        request = self._encode_batch_request(sources, sample_rate)
        return self._encoded_batch(await self._post(request))

    async def decode(
        self,
        codes: Codes,
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> Samples:
        """See `SnacClient.decode`."""
        request = self._decode_request(codes, token_space, seed, noise)
        return self._samples(await self._post(request))

    async def decode_batch(
        self,
        items: Sequence[Codes],
        token_space: str | None = None,
        seed: int = 0,
        noise: NoiseMode = "seeded",
    ) -> list[Samples | ProblemError]:
        """See `SnacClient.decode_batch`."""
        request = self._decode_batch_request(items, token_space, seed, noise)
        return self._samples_batch(await self._post(request))

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

    async def _post(self, request: dict[str, Any]) -> httpx.Response:
        attempt = 0
        while True:
            answer = await self._http.post(**request)
            pause = self._pause_after(answer, attempt)
            if pause is None:
                return self._checked(answer)
            await asyncio.sleep(pause)
            attempt += 1

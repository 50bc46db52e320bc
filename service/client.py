"""Python clients of the service, for threads (`SnacClient`) and for asyncio.

with SnacClient("http://127.0.0.1:8000") as client:
    encoded = client.encode(open("speech.wav", "rb").read())
    samples = client.decode(encoded.codes)
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import numpy as np
import soundfile

from snac_core import audio
from snac_core.audio import Samples
from snac_core.codes import Codes

_NPZ = "application/x-npz"


class ProblemError(Exception):
    """An answer that is a problem; ``status`` and ``problem`` (RFC 9457) say which."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title', '')}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Codes, and the model that made them."""

    codes: Codes
    version: str
    token_space: str


class _Calls:
    """What both clients share: making requests and reading answers."""

    def __init__(self, retries: int, api_key: str | None) -> None:
        self._retries = retries
        self._headers = {} if api_key is None else {"X-Api-Key": api_key}

    @staticmethod
    def _encode_request(source: bytes | Samples, sample_rate: int | None) -> dict[str, Any]:
        if isinstance(source, np.ndarray):
            if sample_rate is None:
                raise ValueError("samples need their sample_rate, in Hz")
            file = io.BytesIO()
            soundfile.write(file, source, sample_rate, format="WAV", subtype="FLOAT")
            source = file.getvalue()
        return {
            "url": "/v1/encode",
            "content": source,
            "headers": {"Content-Type": "application/octet-stream", "Accept": _NPZ},
        }

    @staticmethod
    def _decode_request(
        codes: Codes, token_space: str | None, seed: int, noise: str
    ) -> dict[str, Any]:
        named = {} if token_space is None else {"token_space": token_space}
        return {
            "url": "/v1/decode",
            "content": codes.to_npz(),
            "params": {"seed": seed, "noise": noise, **named},
            "headers": {"Content-Type": _NPZ, "Accept": "audio/wav"},
        }

    @staticmethod
    def _encoded(answer: httpx.Response) -> Encoded:
        return Encoded(
            Codes.from_npz(answer.content),
            answer.headers["X-Model-Version"],
            answer.headers["X-Token-Space"],
        )

    @staticmethod
    def _samples(answer: httpx.Response) -> Samples:
        return audio.read(answer.content, int(answer.headers["X-Sample-Rate"]))

    def _pause(self, answer: httpx.Response, attempt: int) -> float | None:
        """Return seconds to wait before trying again; None when there is no point."""
        if answer.status_code not in (429, 503) or attempt >= self._retries:
            return None
        return float(answer.headers.get("Retry-After", 1))

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        try:
            problem = answer.json()
        except ValueError:
            problem = {"title": answer.reason_phrase, "detail": answer.text[:200]}
        raise ProblemError(answer.status_code, problem)


class SnacClient(_Calls):
    """A client for threads.

    Parameters
    ----------
    base_url
        Such as ``http://127.0.0.1:8000``.
    api_key
        If the service asks for one.
    timeout
        Seconds for one answer.
    retries
        How often to try again after 429 and 503, waiting as long as ``Retry-After`` says.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 900.0, retries: int = 3
    ) -> None:
        super().__init__(retries, api_key)
        self._http = httpx.Client(base_url=base_url, timeout=timeout, headers=self._headers)

    def encode(self, source: bytes | Samples, sample_rate: int | None = None) -> Encoded:
        """Return the codes of an audio file's bytes, or of float samples at ``sample_rate``."""
        return self._encoded(self._post(self._encode_request(source, sample_rate)))

    def decode(
        self,
        codes: Codes,
        token_space: str | None = None,
        seed: int = 0,
        noise: Literal["seeded", "off"] = "seeded",
    ) -> Samples:
        """Return the audio of ``codes``: float32 samples at the codes' rate.

        Parameters
        ----------
        token_space
            That of the codes; the service refuses codes that its model would misread.
        """
        return self._samples(self._post(self._decode_request(codes, token_space, seed, noise)))

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
            pause = self._pause(answer, attempt)
            if pause is None:
                return self._checked(answer)
            time.sleep(pause)
            attempt += 1


class AsyncSnacClient(_Calls):
    """A client for asyncio; parameters as for `SnacClient`."""

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 900.0, retries: int = 3
    ) -> None:
        super().__init__(retries, api_key)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, headers=self._headers)

    async def encode(self, source: bytes | Samples, sample_rate: int | None = None) -> Encoded:
        """See `SnacClient.encode`."""
        return self._encoded(await self._post(self._encode_request(source, sample_rate)))

    async def decode(
        self,
        codes: Codes,
        token_space: str | None = None,
        seed: int = 0,
        noise: Literal["seeded", "off"] = "seeded",
    ) -> Samples:
        """See `SnacClient.decode`."""
        request = self._decode_request(codes, token_space, seed, noise)
        return self._samples(await self._post(request))

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
            pause = self._pause(answer, attempt)
            if pause is None:
                return self._checked(answer)
            await asyncio.sleep(pause)
            attempt += 1

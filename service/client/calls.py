"""Building requests and parsing responses, for both Python clients."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx
import msgpack
import numpy as np
import soundfile

from snac_core import audio
from snac_core.codes import Codes
from snac_core.types import NoiseMode, Samples

_NPZ = "application/x-npz"


class ProblemError(Exception):
    """A problem response (RFC 9457), with its ``status`` and the object ``problem``."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title', '')}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Codes, and the version and token space of the model that made them."""

    codes: Codes
    version: str
    token_space: str


class RequestBuilder:
    """Builds requests and parses responses; the clients add the transport."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, retries: int) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout, self._retries = timeout, retries
        self._headers = {} if api_key is None else {"X-Api-Key": api_key}

    @staticmethod
    def _encode_request(source: bytes | Samples, sample_rate: int | None) -> dict[str, Any]:
        return {
            "url": "/v1/encode",
            "content": _file(source, sample_rate),
            "headers": {"Content-Type": "application/octet-stream", "Accept": _NPZ},
        }

    @staticmethod
    def _encode_batch_request(
        sources: Sequence[bytes | Samples], sample_rate: int | None
    ) -> dict[str, Any]:
        files = [
            ("files", (f"{index}", _file(source, sample_rate)))
            for index, source in enumerate(sources)
        ]
        return {"url": "/v1/encode/batch", "files": files}

    @staticmethod
    def _decode_request(
        codes: Codes, token_space: str | None, seed: int, noise: NoiseMode
    ) -> dict[str, Any]:
        named = {} if token_space is None else {"token_space": token_space}
        return {
            "url": "/v1/decode",
            "content": codes.to_npz(),
            "params": {"seed": seed, "noise": noise, **named},
            "headers": {"Content-Type": _NPZ, "Accept": "audio/wav"},
        }

    @staticmethod
    def _decode_batch_request(
        items: Sequence[Codes], token_space: str | None, seed: int, noise: NoiseMode
    ) -> dict[str, Any]:
        common = {"seed": seed, "noise": noise, "token_space": token_space}
        body = {"items": [{**codes.to_dict(), **common} for codes in items]}
        return {
            "url": "/v1/decode/batch",
            "content": msgpack.packb(body),
            "headers": {"Content-Type": "application/msgpack", "Accept": "application/json"},
        }

    @staticmethod
    def _encoded(answer: httpx.Response) -> Encoded:
        return Encoded(
            Codes.from_npz(answer.content),
            answer.headers["X-Model-Version"],
            answer.headers["X-Token-Space"],
        )

    @staticmethod
    def _encoded_batch(answer: httpx.Response) -> list[Encoded | ProblemError]:
        return [
            _problem(item) or Encoded(Codes.from_dict(item["result"]), **item["result"]["model"])
            for item in answer.json()["results"]
        ]

    @staticmethod
    def _samples(answer: httpx.Response) -> Samples:
        return audio.read(answer.content, int(answer.headers["X-Sample-Rate"]))

    @staticmethod
    def _samples_batch(answer: httpx.Response) -> list[Samples | ProblemError]:
        found: list[Samples | ProblemError] = []
        for item in answer.json()["results"]:
            problem = _problem(item)
            found.append(
                audio.read(base64.b64decode(item["audio"]), item["sample_rate"])
                if problem is None
                else problem
            )
        return found

    def _pause(self, status: int, retry_after: str | None, attempt: int) -> float | None:
        """Return seconds until a retry, at most the timeout; None for no retry."""
        if status not in (429, 503) or attempt >= self._retries:
            return None
        try:
            return min(max(0.0, float(retry_after or 1)), self._timeout)
        except ValueError:
            return 1.0  # a date, which this service never sends

    def _pause_after(self, answer: httpx.Response, attempt: int) -> float | None:
        return self._pause(answer.status_code, answer.headers.get("Retry-After"), attempt)

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        raise problem_error(answer.status_code, answer.reason_phrase, answer.content)


def problem_error(status: int, phrase: str, body: bytes) -> ProblemError:
    """Return the error for a response; ``body`` need not be a problem object."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": phrase, "detail": body[:200].decode(errors="replace")}
    return ProblemError(status, problem)


def _problem(item: dict[str, Any]) -> ProblemError | None:
    problem = item.get("problem")
    return None if problem is None else ProblemError(problem["status"], problem)


def _file(source: bytes | Samples, sample_rate: int | None) -> bytes:
    if not isinstance(source, np.ndarray):
        return source
    if sample_rate is None:
        raise ValueError("samples need their sample_rate, in Hz")
    file = io.BytesIO()
    soundfile.write(file, source, sample_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()

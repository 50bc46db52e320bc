"""Building requests and parsing responses, for both Python clients."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import httpx
import msgpack

from snac_core import audio
from snac_core.audio import Channel
from snac_core.client.inputs import AudioInput, audio_bytes, plain_tokens
from snac_core.codes import Codes
from snac_core.types import NoiseMode, Samples

T = TypeVar("T")

USUAL_BATCH = 64
"""Items of a batch; if the service takes fewer, batches are halved until it takes them."""

QUALITY_HEADERS = {
    "bitrate": "X-Bitrate",
    "si_sdr": "X-SI-SDR",
    "stoi": "X-STOI",
    "log_mel_distance": "X-Log-Mel-Distance",
}

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


@dataclasses.dataclass(frozen=True)
class EncodedTokens:
    """Tokens in a layout, and the version and token space of the model that made them.

    Parameters
    ----------
    tokens
        A list, or for a layout with several lanes a list of lists.
    layout, base
        The layout with its version, and the token id of code 0; None where it has none.
    num_samples, sample_rate
        Of the audio that they decode to.
    """

    tokens: list[Any]
    layout: str
    base: int | None
    num_samples: int
    sample_rate: int
    version: str
    token_space: str


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """Audio that was encoded and decoded.

    Parameters
    ----------
    samples
        float32, [T].
    sample_rate
        Hz.
    quality
        ``bitrate`` (bits per second), ``si_sdr`` (dB), ``stoi`` and ``log_mel_distance``.
    """

    samples: Samples
    sample_rate: int
    quality: dict[str, float]


class RequestBuilder:
    """Builds requests and parses responses; the clients add the transport."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, retries: int) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout, self._retries = timeout, retries
        self._headers = {} if api_key is None else {"X-Api-Key": api_key}

    @staticmethod
    def _encode_request(
        source: AudioInput,
        sample_rate: int | None,
        layout: str | None = None,
        base: int | None = None,
        channel: Channel = "average",
    ) -> dict[str, Any]:
        accept = _NPZ if layout is None else "application/json"
        return {
            "url": "/v1/encode",
            "content": audio_bytes(source, sample_rate),
            "params": _given(layout=layout, base=base, channel=channel),
            "headers": {"Content-Type": "application/octet-stream", "Accept": accept},
        }

    @staticmethod
    def _reconstruct_request(
        source: AudioInput, sample_rate: int | None, seed: int, noise: NoiseMode, channel: Channel
    ) -> dict[str, Any]:
        return {
            "url": "/v1/reconstruct",
            "content": audio_bytes(source, sample_rate),
            "params": {"seed": seed, "noise": noise, "channel": channel},
            "headers": {"Content-Type": "application/octet-stream", "Accept": "audio/wav"},
        }

    @staticmethod
    def _encode_batch_request(
        sources: Sequence[AudioInput], sample_rate: int | None, channel: Channel = "average"
    ) -> dict[str, Any]:
        files = [
            ("files", (f"{index}", audio_bytes(source, sample_rate)))
            for index, source in enumerate(sources)
        ]
        return {"url": "/v1/encode/batch", "files": files, "params": {"channel": channel}}

    @staticmethod
    def _decode_request(
        codes: Codes | EncodedTokens | Any,
        token_space: str | None,
        seed: int,
        noise: NoiseMode,
        layout: str | None = None,
        base: int | None = None,
        num_samples: int | None = None,
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "url": "/v1/decode",
            "params": {"seed": seed, "noise": noise, **_given(token_space=token_space)},
            "headers": {"Content-Type": _NPZ, "Accept": "audio/wav"},
        }
        if isinstance(codes, Codes) and layout in (None, "hierarchical"):
            return request | {"content": codes.to_npz()}
        if isinstance(codes, EncodedTokens):
            layout, base = layout or codes.layout, codes.base if base is None else base
            num_samples, codes = num_samples or codes.num_samples, codes.tokens
        if isinstance(codes, Codes):
            raise ValueError(f"Codes are hierarchical, and layout is {layout!r}")
        named = _given(layout=layout, base=base, num_samples=num_samples)
        request["headers"]["Content-Type"] = "application/json"
        return request | {"content": json.dumps({"codes": plain_tokens(codes), **named})}

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
    def _tokens(answer: httpx.Response) -> EncodedTokens:
        values = answer.json()
        names = ("layout", "base", "num_samples", "sample_rate")
        return EncodedTokens(
            values["codes"], **{name: values[name] for name in names}, **values["model"]
        )

    @staticmethod
    def _reconstructed(answer: httpx.Response) -> Reconstructed:
        rate = int(answer.headers["X-Sample-Rate"])
        quality = {name: float(answer.headers[header]) for name, header in QUALITY_HEADERS.items()}
        return Reconstructed(audio.read(answer.content, rate), rate, quality)

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
        status = answer.status_code
        problem = answer.headers.get("Content-Type", "").startswith("application/problem+json")
        if status in (500, 502) and not problem:
            status = 503  # said by a proxy, which has just lost the replica that it had asked
        return self._pause(status, answer.headers.get("Retry-After"), attempt)

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


def halves(items: Sequence[T], error: ProblemError) -> tuple[Sequence[T], Sequence[T]] | None:
    """Return the two halves of a batch that was too large; None for a single item.

    Raises
    ------
    ProblemError
        ``error``, if that is not what it says.
    """
    if error.status != 413:
        raise error
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else None


def batches(items: Sequence[T]) -> list[Sequence[T]]:
    """Return the items in batches of the service's usual limit."""
    starts = range(0, len(items), USUAL_BATCH)
    return [items[start : start + USUAL_BATCH] for start in starts]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

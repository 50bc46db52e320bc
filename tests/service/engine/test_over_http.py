"""The engine behind HTTP: overload, clients that leave, deadlines, shutdown and failures."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from service.errors import OverloadedError
from snac_core.client import ProblemError, SnacClient
from snac_core.client.calls import RequestBuilder
from snac_core.codes import Codes
from tests.support.codec_spy import CodecSpy, SamplesOf
from tests.support.waiting import wait_for


@pytest.fixture
def held(serve: Any, model_ref: str) -> Iterator[tuple[Any, CodecSpy]]:
    """A server with a small queue whose engine can be held back."""
    with serve(
        model=model_ref, device="cpu", max_queue_seconds=8.0, request_timeout=300.0
    ) as running:
        watched = CodecSpy(running.service.models.codec)
        running.service.models._codec = watched
        yield running, watched
        watched.gate.set()


def test_overload_is_429_with_retry_after(
    held: tuple[Any, CodecSpy], samples_of: SamplesOf, wav_of: Any
) -> None:
    running, watched = held
    watched.gate.clear()
    wav = wav_of(samples_of(6.0))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.http.post, "/v1/encode", content=wav)
        assert watched.entered.wait(300)
        refused = running.http.post("/v1/encode", content=wav)
        watched.gate.set()
        assert first.result(300).status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["retry_after"] == int(refused.headers["Retry-After"])
    assert refused.json()["type"] == "urn:snac:problem:overloaded"
    assert running.metric('snac_requests_total{outcome="overloaded",route="/v1/encode"}') == 1


def test_the_client_comes_back_after_429(
    held: tuple[Any, CodecSpy], samples_of: SamplesOf, wav_of: Any
) -> None:
    running, watched = held
    watched.gate.clear()
    wav = wav_of(samples_of(6.0))
    with ThreadPoolExecutor(2) as pool, SnacClient(running.url) as client:
        first = pool.submit(running.http.post, "/v1/encode", content=wav)
        assert watched.entered.wait(300)
        patient = pool.submit(client.encode, wav)
        line = 'snac_requests_total{outcome="overloaded",route="/v1/encode"}'
        wait_for(lambda: line in running.http.get("/metrics").text)
        watched.gate.set()
        assert patient.result(300).codes == Codes.from_dict(first.result(300).json())
    with SnacClient(running.url, retries=0) as client:
        watched.gate.clear()
        watched.entered.clear()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(running.http.post, "/v1/encode", content=wav)
            assert watched.entered.wait(300)
            with pytest.raises(ProblemError, match="429 The queue is full"):
                client.encode(wav)
            watched.gate.set()


def test_a_client_that_leaves_is_dropped_from_the_queue(
    held: tuple[Any, CodecSpy], samples_of: SamplesOf, wav_of: Any
) -> None:
    running, watched = held
    watched.gate.clear()
    body = wav_of(samples_of(1.0))
    host, port = running.url.removeprefix("http://").split(":")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.http.post, "/v1/encode", content=body)
        assert watched.entered.wait(300)
        with socket.create_connection((host, int(port))) as leaving:
            head = f"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body)
            wait_for(lambda: len(running.service.engine.scheduler.waiting) == 1)
        line = 'snac_requests_total{outcome="disconnected",route="/v1/encode"}'
        wait_for(lambda: line in running.http.get("/metrics").text)
        watched.gate.set()
        assert first.result(300).status_code == 200
    assert running.http.post("/v1/encode", content=body).status_code == 200
    assert [len(steps) for steps in watched.runs] == [1, 1]


def test_a_late_answer_is_504(
    serve: Any, model_ref: str, samples_of: SamplesOf, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu", request_timeout=0.2) as running:
        watched = CodecSpy(running.service.models.codec)
        running.service.models._codec = watched
        watched.gate.clear()
        answer = running.http.post("/v1/encode", content=wav_of(samples_of(0.5)))
        watched.gate.set()
    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:snac:problem:deadline"


def test_requests_cut_off_by_a_stop_are_told_so(
    serve: Any, model_ref: str, samples_of: SamplesOf, wav_of: Any
) -> None:
    wav = wav_of(samples_of(0.5))
    with ThreadPoolExecutor(1) as pool:
        with serve(model=model_ref, device="cpu", drain_timeout=0) as running:
            watched = CodecSpy(running.service.models.codec)
            running.service.models._codec = watched
            watched.gate.clear()

            def post() -> httpx.Response:
                answer = httpx.post(f"{running.url}/v1/encode", content=wav, timeout=300)
                watched.gate.set()
                return answer

            cut_off = pool.submit(post)
            assert watched.entered.wait(300)
        answer = cut_off.result()
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:snac:problem:not-ready"


def test_an_unforeseen_error_is_500_and_keeps_its_words_to_the_log(
    held: tuple[Any, CodecSpy], samples_of: SamplesOf, wav_of: Any
) -> None:
    running, watched = held
    watched.fail = lambda steps: KeyError("secret of the engine")
    answer = running.http.post("/v1/encode", content=wav_of(samples_of(0.5)))
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    watched.fail = lambda steps: None
    assert running.http.post("/v1/encode", content=wav_of(samples_of(0.5))).status_code == 200


def test_engine_death_fails_the_probes(
    held: tuple[Any, CodecSpy], samples_of: SamplesOf, wav_of: Any
) -> None:
    running, watched = held
    assert running.http.get("/health/live").status_code == 200
    watched.fail = lambda steps: torch.AcceleratorError("device-side assert triggered")
    answer = running.http.post("/v1/encode", content=wav_of(samples_of(0.5)))
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:snac:problem:engine-dead"
    wait_for(lambda: not running.service.engine._thread.is_alive())
    for probe in ("/health/live", "/health/ready"):
        assert running.http.get(probe).status_code == 503


def test_nobody_is_sent_away_for_long() -> None:
    assert OverloadedError("full", retry_after=1e9).headers == {"Retry-After": "60"}
    assert OverloadedError("full", retry_after=-1.0).headers == {"Retry-After": "1"}
    calls = RequestBuilder("http://service", None, timeout=5.0, retries=1)
    assert calls._pause(429, "3600", 0) == 5.0
    assert calls._pause(503, "2", 0) == 2.0

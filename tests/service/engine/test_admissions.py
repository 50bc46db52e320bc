"""A request holds its place in the queue from its headers on."""

from __future__ import annotations

import socket
from collections import deque
from concurrent.futures import Future
from typing import Any

import pytest

from service.engine import admissions
from service.engine.queued_job import QueuedJob
from service.engine.scheduler import Scheduler
from service.errors import OverloadedError
from snac_core.codec import Codec
from tests.support.codec_spy import SamplesOf
from tests.support.waiting import wait_for


def job_of(codec: Codec, samples_of: SamplesOf, seconds: float) -> QueuedJob:
    job = codec.encode_job(samples_of(seconds))
    steps = deque(job.steps)
    return QueuedJob(codec, job, Future(), steps, len(steps), 0.0, False, "one")


@pytest.fixture
def scheduler(codec: Codec, samples_of: SamplesOf) -> Scheduler:
    """A queue of ten seconds, used to jobs of one, with one of them waiting."""
    made = Scheduler(batch_seconds=8.0, max_queue_seconds=10.0, turn_seconds=0.0)
    made.add(job_of(codec, samples_of, 1.0), made.admit("one"))
    return made


def test_what_is_admitted_counts_before_it_is_queued(scheduler: Scheduler) -> None:
    expected = scheduler.admissions.expected
    assert 1.0 <= expected < 1.1
    count = int((10.0 - scheduler.queued_seconds) / expected)
    places = [scheduler.admit("one") for _ in range(count)]
    with pytest.raises(OverloadedError, match=f"{count} requests are being read"):
        scheduler.admit("two")
    scheduler.admissions.end(places[0])
    scheduler.admit("two")


def test_an_admitted_job_is_refused_only_if_it_is_far_longer_than_expected(
    scheduler: Scheduler, codec: Codec, samples_of: SamplesOf
) -> None:
    scheduler.add(job_of(codec, samples_of, 7.0))
    place = scheduler.admit("one")
    assert scheduler.slack == 1.0
    with pytest.raises(OverloadedError):
        scheduler.check_open(2.0, "one")
    scheduler.check_open(2.0, "one", place)
    with pytest.raises(OverloadedError):
        scheduler.check_open(4.0, "one", place)
    scheduler.add(job_of(codec, samples_of, 2.0), place)
    assert scheduler.queued_seconds > 10.0
    assert not scheduler.admissions.held()
    with pytest.raises(OverloadedError):
        scheduler.admit("two")


def test_one_callers_uploads_are_within_its_share() -> None:
    scheduler = Scheduler(8.0, max_queue_seconds=10.0, turn_seconds=0.0, caller_share=0.5)
    scheduler.admissions.learn(1.0)
    for _ in range(5):
        scheduler.admit("one")
    with pytest.raises(OverloadedError, match="share"):
        scheduler.admit("one")
    scheduler.admit("two")


def test_a_place_lapses(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admissions, "LAPSE_SECONDS", 0.0)
    for _ in range(20):
        scheduler.admit("one")


def test_uploads_take_places_and_give_them_up_when_they_end(
    serve: Any, model_ref: str, samples_of: SamplesOf, wav_of: Any
) -> None:
    wav = wav_of(samples_of(1.0))
    head = b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(wav)
    with serve(model=model_ref, device="cpu", max_queue_seconds=1.9) as running:
        held = running.service.engine.scheduler.admissions.held
        assert running.http.post("/v1/encode", content=wav).status_code == 200
        assert not held()
        assert running.http.post("/v1/encode", content=b"RIFF").status_code == 400
        assert not held()
        address = running.http.base_url.host, running.http.base_url.port
        with socket.create_connection(address) as slow:
            slow.sendall(head)
            wait_for(lambda: len(held()) == 1)
            refused = running.http.post("/v1/encode", content=wav)
            assert refused.status_code == 429
            assert "and 1 requests are being read" in refused.json()["detail"]
        wait_for(lambda: not held())
        assert running.http.post("/v1/encode", content=wav).status_code == 200

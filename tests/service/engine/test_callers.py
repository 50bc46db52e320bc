"""Callers take turns in the engine, whoever has more jobs waiting."""

from __future__ import annotations

import math
from collections import Counter, deque
from concurrent.futures import Future

import pytest

from service.engine.queued_job import QueuedJob
from service.engine.scheduler import Scheduler
from service.errors import OverloadedError
from snac_core.codec import Codec
from tests.support.codec_spy import SamplesOf


def job_of(codec: Codec, samples_of: SamplesOf, caller: str, seconds: float = 1.0) -> QueuedJob:
    job = codec.encode_job(samples_of(seconds))
    steps = deque(job.steps)
    return QueuedJob(codec, job, Future(), steps, len(steps), 0.0, False, caller)


def test_few_jobs_get_as_much_of_the_engine_as_many(codec: Codec, samples_of: SamplesOf) -> None:
    scheduler = Scheduler(batch_seconds=1.0, max_queue_seconds=1000.0, turn_seconds=0.0)
    for _ in range(32):
        scheduler.add(job_of(codec, samples_of, "many"))
    for _ in range(2):
        scheduler.add(job_of(codec, samples_of, "few"))
    done: Counter[str] = Counter()
    for _ in range(20):
        batch = scheduler.next_batch()
        scheduler.finish(batch, 0.1)
        (caller,) = [queued.caller for queued, _ in batch]
        done[caller] += 1
        scheduler.add(job_of(codec, samples_of, caller))
    assert done == {"many": 10, "few": 10}


def test_who_was_away_has_no_claim_to_what_others_had(codec: Codec, samples_of: SamplesOf) -> None:
    scheduler = Scheduler(batch_seconds=1.0, max_queue_seconds=1000.0, turn_seconds=0.0)
    for _ in range(30):
        scheduler.add(job_of(codec, samples_of, "first"))
    for _ in range(10):
        scheduler.finish(scheduler.next_batch(), 0.1)
    for _ in range(30):
        scheduler.add(job_of(codec, samples_of, "second"))
    done: Counter[str] = Counter()
    for _ in range(10):
        batch = scheduler.next_batch()
        scheduler.finish(batch, 0.1)
        done.update(queued.caller for queued, _ in batch)
    assert done == {"first": 5, "second": 5}


def test_one_caller_may_not_fill_the_queue(codec: Codec, samples_of: SamplesOf) -> None:
    scheduler = Scheduler(1.0, max_queue_seconds=40.0, turn_seconds=0.0, caller_share=0.75)
    while scheduler.queued_seconds < 29.0:
        scheduler.check_open(1.0, "first")
        scheduler.add(job_of(codec, samples_of, "first"))
    scheduler.add(job_of(codec, samples_of, "first"))
    with pytest.raises(OverloadedError, match="which is its share of 40"):
        scheduler.check_open(1.0, "first")
    scheduler.check_open(1.0, "second")


def test_who_is_refused_comes_back_behind_those_refused_before(
    codec: Codec, samples_of: SamplesOf
) -> None:
    scheduler = Scheduler(batch_seconds=1.0, max_queue_seconds=4.0, turn_seconds=0.0)

    def told(rate: float) -> list[int]:
        for _ in range(3):
            scheduler.add(job_of(codec, samples_of, "first"))
        scheduler.rate, waits = rate, []
        for _ in range(5):
            with pytest.raises(OverloadedError) as caught:
                scheduler.check_open(2.0, "late")
            waits.append(caught.value.retry_after)
        return waits

    def expected(rate: float) -> list[int]:
        excess = scheduler.queued_seconds + 2.0 - 4.0
        # Not all come back: the wait grows no further than one more queue.
        return [math.ceil((excess + refused) / rate) for refused in (0.0, 2.0, 4.0, 4.0, 4.0)]

    assert told(0.5) == expected(0.5)
    while batch := scheduler.next_batch():
        scheduler.finish(batch, 1.0)
    # What they were told is past.
    assert told(0.25) == expected(0.25)

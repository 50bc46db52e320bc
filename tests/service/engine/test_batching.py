"""The engine: fair, bounded, exact, and honest when something fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest
import torch

from service.engine.engine import Engine
from service.engine.queued_job import Timing
from service.errors import EngineDeadError, NotReadyError, OverloadedError
from service.observability.metrics import Metrics
from snac_core.codec import Codec
from snac_core.errors import ModelError
from snac_core.inference.jobs import Step
from tests.support.codec_spy import CodecSpy, SamplesOf
from tests.support.waiting import wait_for


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(batch_seconds=30.0, max_queue_seconds=100.0, metrics=Metrics())
    engine.start()
    yield engine
    engine.close()


def submit(engine: Engine, codec: CodecSpy | Codec, job: Any) -> Future[Timing]:
    return engine.submit(cast(Codec, codec), job)


def test_jobs_of_one_kind_share_batches_and_kinds_do_not_mix(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    clips = [samples_of(0.5, seed) for seed in range(6)]
    codes = watched.encode(clips)
    watched.gate.clear()
    first = submit(engine, watched, watched.encode_job(clips[0]))
    assert watched.entered.wait(300)
    jobs = [watched.encode_job(clip) for clip in clips]
    jobs += [watched.decode_job(one) for one in codes]
    waiting = [first, *(submit(engine, watched, job) for job in jobs)]
    watched.gate.set()
    for one in waiting:
        one.result(300)
    assert [len(steps) for steps in watched.runs] == [1, 6, 6]
    assert [{step.kind for step in steps} for steps in watched.runs] == [
        {"encode"},
        {"encode"},
        {"decode"},
    ]
    assert [job.result() for job in jobs[:6]] == codes
    alone = watched.decode(codes)
    for job, expected in zip(jobs[6:], alone, strict=True):
        assert np.allclose(job.result(), expected, atol=1e-5)


def test_two_codecs_never_share_a_batch(
    engine: Engine, codec: Codec, samples_of: SamplesOf
) -> None:
    old, new = CodecSpy(codec), CodecSpy(codec)
    old.gate.clear()
    blocker = submit(engine, old, old.encode_job(samples_of(0.3)))
    assert old.entered.wait(300)
    jobs: dict[int, list[Any]] = {id(watched): [] for watched in (old, new)}
    waiting = [blocker]
    for _ in range(3):
        for watched in (old, new):
            job = watched.encode_job(samples_of(0.3))
            jobs[id(watched)].append(job)
            waiting.append(submit(engine, watched, job))
    old.gate.set()
    for one in waiting:
        one.result(300)
    for watched in (old, new):
        ran = [step for steps in watched.runs for step in steps]
        assert {id(step.job) for step in ran} >= {id(job) for job in jobs[id(watched)]}
    assert len(new.runs) == 1


def test_a_short_clip_overtakes_a_long_file(watched: CodecSpy, samples_of: SamplesOf) -> None:
    engine = Engine(batch_seconds=5.0, max_queue_seconds=100.0, metrics=Metrics())
    engine.start()
    long_job = watched.encode_job(samples_of(60.0))
    assert len(long_job.steps) > 4
    watched.gate.clear()
    long = submit(engine, watched, long_job)
    assert watched.entered.wait(300)
    short = submit(engine, watched, watched.encode_job(samples_of(1.0)))
    long_was_done: list[bool] = []
    short.add_done_callback(lambda _: long_was_done.append(long.done()))
    watched.gate.set()
    short.result(300)
    long.result(300)
    engine.close()
    assert long_was_done == [False]
    order = [{step.job is long_job for step in steps} for steps in watched.runs]
    assert order.index({False}) == 1


def test_a_clip_preempts_a_window(codec: Codec, samples_of: SamplesOf) -> None:
    """Each window of a long file finds a clip waiting, which is answered before the window is."""
    engine = Engine(30.0, max_queue_seconds=100.0, metrics=Metrics(), turn_seconds=0.0)
    engine.start()
    long_job = codec.encode_job(samples_of(20.0))
    clips: list[tuple[Any, Future[Timing]]] = []
    answered: list[bool] = []

    class Posting(CodecSpy):
        def run(self, steps: Sequence[Step]) -> None:
            if steps[0].job is long_job:
                job = codec.encode_job(samples_of(0.5, len(clips)))
                clips.append((job, submit(engine, self, job)))
                self._codec.run(steps)
                answered.append(clips[-1][1].done())
            else:
                self._codec.run(steps)

    timing = submit(engine, Posting(codec), long_job).result(300)
    assert len(clips) == len(long_job.windows) > 2
    assert answered == [True] * len(clips)
    assert long_job.result() == codec.encode([samples_of(20.0)])[0]
    for seed, (job, _) in enumerate(clips):
        assert job.result() == codec.encode([samples_of(0.5, seed)])[0]
    assert timing.inference > 0
    engine.close()


def test_a_dead_device_in_the_middle_of_a_window_ends_the_engine(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    long_job = watched.encode_job(samples_of(20.0))
    dead = torch.AcceleratorError("device-side assert triggered")
    watched.fail = lambda steps: None if steps[0].job is long_job else dead
    watched.gate.clear()
    long = submit(engine, watched, long_job)
    assert watched.entered.wait(300)
    short = submit(engine, watched, watched.encode_job(samples_of(0.5)))
    watched.gate.set()
    for one in (long, short):
        with pytest.raises(EngineDeadError):
            one.result(300)
    assert engine.died


def test_what_was_given_up_leaves_no_residue_in_the_count(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    watched.gate.clear()
    first = submit(engine, watched, watched.encode_job(samples_of(0.1)))
    assert watched.entered.wait(300)
    for length in (0.3, 0.7, 20.0, 1.1):
        assert submit(engine, watched, watched.encode_job(samples_of(length))).cancel()
    watched.gate.set()
    first.result(300)
    wait_for(lambda: engine.queued_seconds == 0.0)


def test_clips_without_end_do_not_starve_a_long_file(
    engine: Engine, codec: Codec, samples_of: SamplesOf
) -> None:
    long = submit(engine, codec, codec.encode_job(samples_of(20.0)))
    clip = samples_of(0.5)

    def another(done: Future[Timing]) -> None:
        if not long.done():
            submit(engine, codec, codec.encode_job(clip)).add_done_callback(another)

    for _ in range(4):
        submit(engine, codec, codec.encode_job(clip)).add_done_callback(another)
    long.result(300)


def test_a_clip_that_fails_in_the_middle_of_a_window_fails_alone(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    long_job = watched.encode_job(samples_of(20.0))
    bad = watched.encode_job(samples_of(0.5))
    watched.fail = lambda steps: ModelError("poison") if steps[0].job is bad else None
    watched.gate.clear()
    long = submit(engine, watched, long_job)
    assert watched.entered.wait(300)
    short = submit(engine, watched, bad)
    watched.gate.set()
    with pytest.raises(ModelError, match="poison"):
        short.result(300)
    long.result(300)
    assert long_job.result() == watched.encode([samples_of(20.0)])[0]


def test_the_padded_batch_stays_within_its_budget(watched: CodecSpy, samples_of: SamplesOf) -> None:
    engine = Engine(batch_seconds=4.0, max_queue_seconds=100.0, metrics=Metrics())
    jobs = [watched.encode_job(samples_of(0.5 + 0.25 * (i % 5), i)) for i in range(20)]
    waiting = [submit(engine, watched, job) for job in jobs]
    engine.start()
    for one in waiting:
        one.result(300)
    engine.close()
    assert len(watched.runs) < 20
    for steps in watched.runs:
        assert len(steps) == 1 or len(steps) * max(step.seconds for step in steps) <= 4.0


def test_a_full_queue_says_when_to_come_back(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    submit(engine, watched, watched.encode_job(samples_of(1.0))).result(300)
    engine.scheduler.max_queue_seconds = 5.0
    watched.gate.clear()
    big = submit(engine, watched, watched.encode_job(samples_of(8.0)))
    with pytest.raises(OverloadedError, match="of at most 5") as caught:
        submit(engine, watched, watched.encode_job(samples_of(1.0)))
    assert int(caught.value.headers["Retry-After"]) >= 1
    watched.gate.set()
    big.result(300)
    submit(engine, watched, watched.encode_job(samples_of(1.0))).result(300)
    assert engine.queued_seconds == 0.0


def test_how_long_to_stay_away_comes_from_how_fast_the_queue_empties(
    watched: CodecSpy, samples_of: SamplesOf
) -> None:
    metrics = Metrics()
    engine = Engine(batch_seconds=30.0, max_queue_seconds=5.0, metrics=metrics)
    engine.start()
    submit(engine, watched, watched.encode_job(samples_of(0.3))).result(300)
    rate = metrics.registry.get_sample_value("snac_real_time_factor")
    assert rate
    watched.gate.clear()
    watched.entered.clear()
    # Twenty seconds of the engine's time, as it looks by now.
    long = watched.encode_job(np.zeros(round(20 * rate * 24000), np.float32))
    waiting = submit(engine, watched, long)
    assert watched.entered.wait(300)
    clip = watched.encode_job(samples_of(1.0))
    with pytest.raises(OverloadedError) as caught:
        submit(engine, watched, clip)
    excess = long.seconds + clip.seconds - 5.0
    assert caught.value.retry_after == min(60, math.ceil(excess / rate)) > 1
    waiting.cancel()
    watched.gate.set()
    engine.close()


def test_one_poisoned_item_fails_alone(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    watched.gate.clear()
    blocker = submit(engine, watched, watched.encode_job(samples_of(0.2)))
    assert watched.entered.wait(300)
    jobs = [watched.encode_job(samples_of(0.5, seed)) for seed in range(5)]
    bad = jobs[2]
    watched.fail = lambda steps: (
        ModelError("poison") if any(step.job is bad for step in steps) else None
    )
    waiting = [submit(engine, watched, job) for job in jobs]
    watched.gate.set()
    blocker.result(300)
    with pytest.raises(ModelError, match="poison"):
        waiting[2].result(300)
    for index in (0, 1, 3, 4):
        waiting[index].result(300)
        assert jobs[index].result() == watched.encode([samples_of(0.5, index)])[0]
    assert engine.alive
    assert engine.queued_seconds == 0.0


def test_too_little_memory_halves_the_batch(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    watched.gate.clear()
    blocker = submit(engine, watched, watched.encode_job(samples_of(0.2)))
    assert watched.entered.wait(300)
    watched.fail = lambda steps: torch.OutOfMemoryError("full") if len(steps) > 2 else None
    jobs = [watched.encode_job(samples_of(0.5, seed)) for seed in range(8)]
    waiting = [submit(engine, watched, job) for job in jobs]
    watched.gate.set()
    for one in [blocker, *waiting]:
        one.result(300)
    assert [len(steps) for steps in watched.runs] == [1, 8, 4, 2, 2, 4, 2, 2]

    watched.fail = lambda steps: torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        submit(engine, watched, watched.encode_job(samples_of(0.5))).result(300)
    assert engine.alive


def test_abandoned_jobs_cost_nothing(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    watched.gate.clear()
    blocker = submit(engine, watched, watched.encode_job(samples_of(0.2)))
    assert watched.entered.wait(300)
    abandoned = submit(engine, watched, watched.encode_job(samples_of(0.5)))
    kept = submit(engine, watched, watched.encode_job(samples_of(0.5)))
    assert abandoned.cancel()
    watched.gate.set()
    blocker.result(300)
    kept.result(300)
    assert [len(steps) for steps in watched.runs] == [1, 1]
    assert engine.queued_seconds == 0.0


def test_a_dead_device_kills_the_engine_and_every_waiter_hears_of_it(
    engine: Engine, watched: CodecSpy, samples_of: SamplesOf
) -> None:
    watched.fail = lambda steps: torch.AcceleratorError("device-side assert triggered")
    watched.gate.clear()
    waiting = [submit(engine, watched, watched.encode_job(samples_of(0.2))) for _ in range(4)]
    watched.gate.set()
    for one in waiting:
        with pytest.raises(EngineDeadError):
            one.result(300)
    assert not engine.alive
    with pytest.raises(EngineDeadError):
        submit(engine, watched, watched.encode_job(samples_of(0.2)))


def test_closing_answers_those_who_wait(watched: CodecSpy, samples_of: SamplesOf) -> None:
    engine = Engine(batch_seconds=30.0, max_queue_seconds=100.0, metrics=Metrics())
    waiting = submit(engine, watched, watched.encode_job(samples_of(0.2)))
    engine.close()
    with pytest.raises(NotReadyError):
        waiting.result(300)
    with pytest.raises(NotReadyError):
        submit(engine, watched, watched.encode_job(samples_of(0.2)))

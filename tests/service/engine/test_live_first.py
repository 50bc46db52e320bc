"""Streams beside whole clips: somebody listens to a stream while it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

from service.engine.engine import Engine
from service.engine.queued_job import Timing
from service.observability.metrics import Metrics
from service.runtime.streams import Stream
from service.settings import Settings
from snac_core.codec import Codec
from snac_core.inference.jobs import Step
from snac_core.streaming import StreamingDecoder
from snac_core.types import Samples

STEPS, CLIPS = 40, 6


class Seen:
    """A codec that says when it runs what; all else is the codec's."""

    def __init__(self, codec: Codec, see: Callable[[Sequence[Step]], None]) -> None:
        self._codec, self._see = codec, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def run(self, steps: Sequence[Step]) -> None:
        self._see(steps)
        self._codec.run(steps)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine whose batches hold one clip of half a second."""
    engine = Engine(batch_seconds=0.6, max_queue_seconds=1000.0, metrics=Metrics())
    yield engine
    engine.close()


def stream_of(codec: Codec, samples: Samples) -> StreamingDecoder:
    """Return a stream into which all of a clip's codes have come."""
    (codes,) = codec.encode([samples])
    decoder = StreamingDecoder(codec)
    decoder.push(codes.levels)
    decoder.close(codes.num_samples)
    return decoder


def test_a_stream_has_every_other_batch_and_no_more(
    engine: Engine, codec: Codec, samples_of: Callable[..., Samples]
) -> None:
    """Its next step is queued as soon as one is done, behind clips that came before."""
    ran: list[str] = []
    seen = cast(Codec, Seen(codec, lambda steps: ran.append(steps[0].kind)))
    clips = [samples_of(0.5, seed) for seed in range(CLIPS)]
    jobs = [codec.encode_job(clip) for clip in clips]
    decoder = stream_of(codec, samples_of(2048 * STEPS / 24000))
    ended: Future[None] = Future()

    def next_step(done: Future[Timing] | None = None) -> None:
        if done is not None:
            done.result()
        step = decoder.take_step()
        if step is None:
            ended.set_result(None)
        else:
            engine.submit(seen, step, urgent=True).add_done_callback(next_step)

    waiting = [engine.submit(seen, job) for job in jobs]
    next_step()
    engine.start()
    for one in waiting:
        one.result(300)
    ended.result(300)
    assert ran[0] == "stream-decode"
    last_clip = len(ran) - 1 - ran[::-1].index("encode")
    # Not all of the stream first, and not all of the clips.
    assert ran[:last_clip].count("stream-decode") >= CLIPS
    assert ran[last_clip:].count("stream-decode") >= STEPS // 2
    assert [job.result() for job in jobs] == codec.encode(clips)
    whole = codec.decode(codec.encode([samples_of(2048 * STEPS / 24000)]))[0]
    np.testing.assert_allclose(decoder.pull(), whole, rtol=0, atol=1e-5)


def test_a_step_of_a_stream_preempts_a_clip(
    engine: Engine, codec: Codec, samples_of: Callable[..., Samples]
) -> None:
    decoder, job = stream_of(codec, samples_of(1.0)), codec.encode_job(samples_of(0.5))
    steps: list[Future[Timing]] = []
    ran: list[str] = []

    class Meeting(Seen):
        def run(self, given: Sequence[Step]) -> None:
            if given[0].job is job:
                step = decoder.take_step()
                assert step is not None
                steps.append(engine.submit(cast(Codec, self), step, urgent=True))
                self._codec.run(given)
                ran.append(f"clip, {'after' if steps[0].done() else 'before'} the step")
            else:
                self._codec.run(given)

    engine.start()
    engine.submit(cast(Codec, Meeting(codec, lambda _: None)), job).result(300)
    steps[0].result(300)
    assert ran == ["clip, after the step"]
    assert job.result() == codec.encode([samples_of(0.5)])[0]


def test_a_stream_is_urgent_until_its_listener_has_some_in_hand() -> None:
    stream = Stream("decode", "somebody", Settings(), Metrics())
    assert stream.urgent
    stream.received()
    stream.sent(0.5)
    assert stream.urgent
    stream.sent(600.0)
    assert not stream.urgent

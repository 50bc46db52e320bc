"""Streams: how many are open, what each one may hold, and how each one ends.

What a stream does is in `service.stream_sessions`; this is what every stream has in common,
whether it came by WebSocket or is an answer that is sent as it is made. A stream's work goes
through the engine step by step, as any job does, so that the steps of many streams make one
batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Literal

from service.engine.engine import Engine
from service.errors import DeadlineError, NotReadyError, OverloadedError, StreamIdleError
from service.limits.rates import RateLimits
from service.observability.metrics import Metrics
from service.problems import problem_type
from service.settings import Settings
from snac_core.codec import Codec
from snac_core.inference.jobs import Job

StreamKind = Literal["decode", "encode", "decode-http"]

_RETRY_SECONDS = 0.1
"""Pause of a stream that waits for room in the engine's queue, or for its caller's share."""

_LEAD_SECONDS = 1.0
"""Audio that a listener should have in hand, beside what was heard since the first input."""

_LAST_WORDS_SECONDS = 2.0
"""Time for a stream that is ended to say so."""


class Stream:
    """One open stream, as those who watch over it see it.

    Parameters
    ----------
    kind
        Its label in metrics.
    caller
        Who is counted against a rate limit.
    """

    def __init__(self, kind: StreamKind, caller: str, settings: Settings, metrics: Metrics) -> None:
        self.kind: StreamKind = kind
        self.caller = caller
        self.held_seconds = 0.0
        """Audio that has come, as tokens or samples, and whose result has not gone out."""
        self.sending = False
        self.computing = False
        """Whether it waits for the engine, which is not for the client to hurry."""
        self.outcome = "ok"
        """How it ended, for one whose error has been dealt with."""
        self._settings, self._metrics = settings, metrics
        self._opened = self._active = time.monotonic()
        self._first_input: float | None = None
        self._given_seconds = 0.0
        self._first_sent = False
        self.uncounted_seconds = 0.0
        """Audio that was computed and is not counted against the rate limit yet."""
        self._stop = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no more is to be read before some of what is held has gone out."""
        return self.held_seconds >= self._settings.stream_buffer_seconds

    @property
    def urgent(self) -> bool:
        """Whether somebody who listens from the first input on has little left to hear."""
        since = self._first_input or time.monotonic()
        return self._given_seconds < time.monotonic() - since + _LEAD_SECONDS

    def touch(self) -> None:
        """Note that something has moved."""
        self._active = time.monotonic()

    def received(self) -> None:
        """Note a message with something to work on."""
        self.touch()
        if self._first_input is None:
            self._first_input = self._active

    def sent(self, seconds: float) -> None:
        """Note that the result of ``seconds`` of audio has gone out."""
        self.touch()
        self._given_seconds += seconds
        self._metrics.stream_audio_seconds.labels(kind=self.kind).inc(seconds)
        if self._first_input is not None and not self._first_sent:
            self._first_sent = True
            waited = self._active - self._first_input
            self._metrics.stream_first_seconds.labels(kind=self.kind).observe(waited)

    def stop(self) -> None:
        """End the stream from outside, because the service stops."""
        self._stop.set()

    async def watch(self) -> None:
        """Wait until the stream must end, and say why; meant to run beside its work.

        Raises
        ------
        StreamIdleError
            When neither side has moved for too long.
        DeadlineError
            When it has been open for too long.
        NotReadyError
            When the service stops.
        """
        idle, most = self._settings.stream_idle_timeout, self._settings.stream_max_seconds
        while not self._stop.is_set():
            active = time.monotonic() if self.computing else self._active
            left = min(active + idle, self._opened + most) - time.monotonic()
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), left)
            elif time.monotonic() >= self._opened + most:
                raise DeadlineError(f"a stream may be open for {most:g} s, and this one was")
            else:
                what = "was taken of what was sent" if self.sending else "came"
                raise StreamIdleError(f"nothing {what} for {idle:g} s")
        raise NotReadyError("the service is stopping")


class Streams:
    """The open streams of one app."""

    def __init__(
        self, settings: Settings, engine: Engine, rates: RateLimits, metrics: Metrics
    ) -> None:
        self._settings, self._engine = settings, engine
        self._rates, self._metrics = rates, metrics
        self._open: set[Stream] = set()
        self._draining = False
        self._none_left = asyncio.Event()
        self._none_left.set()
        metrics.stream_held_seconds.set_function(
            lambda: sum(stream.held_seconds for stream in self.all)
        )

    @property
    def all(self) -> tuple[Stream, ...]:
        """The streams that are open."""
        return tuple(self._open)

    def check_open(self) -> None:
        """Raise what `open` would raise now."""
        if self._draining:
            raise NotReadyError("the service is stopping")
        self._engine.check_open()
        if len(self._open) >= self._settings.max_streams:
            raise OverloadedError(
                f"{len(self._open)} streams are open, and no more may be", retry_after=1.0
            )

    @contextlib.contextmanager
    def open(self, kind: StreamKind, caller: str) -> Iterator[Stream]:
        """Have one more stream for as long as the block lasts, and count how it ends.

        Raises
        ------
        OverloadedError
            If there are as many as may be, or the engine's queue is full.
        NotReadyError
            If the service is stopping.
        """
        self.check_open()
        stream = Stream(kind, caller, self._settings, self._metrics)
        self._open.add(stream)
        self._none_left.clear()
        self._metrics.streams_open.labels(kind=kind).inc()
        try:
            yield stream
        except asyncio.CancelledError:
            stream.outcome = "disconnected"
            raise
        except Exception as error:
            stream.outcome = problem_type(error).name
            raise
        finally:
            self._open.discard(stream)
            self._metrics.streams_open.labels(kind=kind).dec()
            self.count(kind, stream.outcome)
            if not self._open:
                self._none_left.set()

    def count(self, kind: StreamKind, outcome: str) -> None:
        """Count a stream that has ended, or was refused."""
        self._metrics.streams.labels(kind=kind, outcome=outcome).inc()

    async def run(self, stream: Stream, codec: Codec, step: Job) -> None:
        """Have the engine run one step of ``stream``.

        Where a request would be refused, for a full queue or a caller's rate limit, a
        stream that has been let in waits: it goes slower instead.

        Raises
        ------
        DeadlineError
            If that took longer than a request may.
        Exception
            Whatever the engine or the codec raises.
        """
        timeout = self._settings.request_timeout
        stream.computing = True
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        self._count(stream)
                        await self._engine.run(codec, step, urgent=stream.urgent)
                        stream.uncounted_seconds += step.seconds
                        return
                    except OverloadedError:
                        await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            raise DeadlineError(f"a step of the stream waited more than {timeout:g} s") from None
        finally:
            stream.computing = False
            stream.touch()

    def _count(self, stream: Stream) -> None:
        # A step longer than a minute's share is paid for in parts, before the next ones.
        whole = int(min(stream.uncounted_seconds, self._rates.audio_share))
        if whole:
            self._rates.count_audio(stream.caller, whole)
            stream.uncounted_seconds -= whole

    async def drain(self, seconds: float) -> None:
        """Take no more streams, give those there are ``seconds`` to end, then end them."""
        self._draining = True
        for pause in (seconds, _LAST_WORDS_SECONDS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), pause)
            for stream in self.all:
                stream.stop()

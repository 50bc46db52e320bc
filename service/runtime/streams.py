"""Open streams: their number, buffers, timeouts and metrics.

This is common to WebSocket streams (`service.websocket`) and to streamed HTTP responses
(`service.api.streaming_audio`). A stream's steps run on the engine as any job does, so that steps
of many streams share a batch.
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
from service.shares import Shares
from snac_core.codec import Codec
from snac_core.inference.jobs import Job

StreamKind = Literal["decode", "encode", "decode-http"]

_RETRY_SECONDS = 0.1
"""Delay before a stream retries after a full engine queue or an exceeded rate limit."""

_LEAD_SECONDS = 1.0
"""Audio that a listener should have buffered beyond the time since the first input."""

_LAST_WORDS_SECONDS = 2.0
"""Time for a stopped stream to send its last message."""


class Stream:
    """One open stream: its buffer, progress and timeouts.

    Parameters
    ----------
    kind
        Its label in metrics.
    caller
        Whom the rate limit counts.
    """

    def __init__(self, kind: StreamKind, caller: str, settings: Settings, metrics: Metrics) -> None:
        self.kind: StreamKind = kind
        self.caller = caller
        self.held_seconds = 0.0
        """Audio received, as tokens or samples, whose result has not been sent."""
        self.sending = False
        self.computing = False
        """Whether the stream waits for the engine; the client is not idle then."""
        self.outcome = "ok"
        """The result for metrics; set here by whoever handles the stream's error."""
        self._settings, self._metrics = settings, metrics
        self._opened = self._active = time.monotonic()
        self._first_input: float | None = None
        self._given_seconds = 0.0
        self._first_sent = False
        self.price = 1.0
        """Audio that is computed for each second of a step."""
        self.uncounted_seconds = 0.0
        """Computed audio that the rate limit has not counted yet."""
        self._stop = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether reading must pause until buffered results have been sent."""
        return self.held_seconds >= self._settings.stream_buffer_seconds

    @property
    def urgent(self) -> bool:
        """Whether a listener who plays from the first input on has little audio buffered."""
        since = self._first_input or time.monotonic()
        return self._given_seconds < time.monotonic() - since + _LEAD_SECONDS

    def touch(self) -> None:
        """Record traffic."""
        self._active = time.monotonic()

    def received(self) -> None:
        """Record a message with input."""
        self.touch()
        if self._first_input is None:
            self._first_input = self._active

    def sent(self, seconds: float) -> None:
        """Record that the result of ``seconds`` of audio was sent."""
        self.touch()
        self._given_seconds += seconds
        self._metrics.stream_audio_seconds.labels(kind=self.kind).inc(seconds)
        if self._first_input is not None and not self._first_sent:
            self._first_sent = True
            waited = self._active - self._first_input
            self._metrics.stream_first_seconds.labels(kind=self.kind).observe(waited)

    def stop(self) -> None:
        """End the stream because the service is stopping."""
        self._stop.set()

    async def watch(self) -> None:
        """Wait until the stream must end, and raise why; runs beside the stream's work.

        Raises
        ------
        StreamIdleError
            After too long without traffic.
        DeadlineError
            After the maximum duration of a stream.
        NotReadyError
            If the service is stopping.
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
        self._shares = Shares(settings.max_streams, settings.caller_share)
        self._draining = False
        self._none_left = asyncio.Event()
        self._none_left.set()
        metrics.stream_held_seconds.set_function(
            lambda: sum(stream.held_seconds for stream in self.all)
        )

    @property
    def all(self) -> tuple[Stream, ...]:
        """The open streams."""
        return tuple(self._open)

    def check_open(self, caller: str) -> None:
        """Raise what `open` would raise now."""
        if self._draining:
            raise NotReadyError("the service is stopping")
        # A stream needs room for its next step alone, not for all its audio.
        self._engine.check_open(0.0, caller)
        if len(self._open) >= self._settings.max_streams:
            raise OverloadedError(
                f"{len(self._open)} streams are open, and no more may be", retry_after=1.0
            )
        if not self._shares.allows(caller, 1):
            raise OverloadedError(
                f"{self._shares.of(caller):.0f} streams of this caller are open, which is its "
                f"share of {self._settings.max_streams}",
                retry_after=1.0,
            )

    @contextlib.contextmanager
    def open(self, kind: StreamKind, caller: str) -> Iterator[Stream]:
        """Open a stream for the duration of the block, and count its outcome.

        Raises
        ------
        OverloadedError
            If the maximum number is open, or the engine's queue is full.
        NotReadyError
            If the service is stopping.
        """
        self.check_open(caller)
        stream = Stream(kind, caller, self._settings, self._metrics)
        self._open.add(stream)
        self._shares.take(caller, 1)
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
            self._shares.take(caller, -1)
            self._metrics.streams_open.labels(kind=kind).dec()
            self.count(kind, stream.outcome)
            if not self._open:
                self._none_left.set()

    def count(self, kind: StreamKind, outcome: str) -> None:
        """Count a stream that ended or was refused."""
        self._metrics.streams.labels(kind=kind, outcome=outcome).inc()

    async def run(self, stream: Stream, codec: Codec, step: Job) -> None:
        """Run one step of ``stream`` on the engine.

        Where a request would be refused because of a full queue or a rate limit, an open stream
        waits instead.

        Raises
        ------
        DeadlineError
            If that took longer than ``SNAC_REQUEST_TIMEOUT``.
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
                        await self._engine.run(
                            codec, step, urgent=stream.urgent, caller=stream.caller
                        )
                        stream.uncounted_seconds += step.seconds * stream.price
                        return
                    except OverloadedError:
                        await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            raise DeadlineError(f"a step of the stream waited more than {timeout:g} s") from None
        finally:
            stream.computing = False
            stream.touch()

    def _count(self, stream: Stream) -> None:
        # A step longer than a minute's limit is counted in parts, before the following steps.
        whole = int(min(stream.uncounted_seconds, self._rates.audio_share))
        if whole:
            self._rates.count_audio(stream.caller, whole)
            stream.uncounted_seconds -= whole

    async def drain(self, seconds: float) -> None:
        """Stop accepting streams, give the open ones ``seconds`` to end, then stop them."""
        self._draining = True
        for pause in (seconds, _LAST_WORDS_SECONDS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), pause)
            for stream in self.all:
                stream.stop()

"""The engine: one thread that owns the device and runs everybody's windows in shared batches.

A job (one file to encode, one set of codes to decode) comes as a list of steps, the windows
it is cut into. The engine takes what is waiting the moment it is free, one step of each job
in turn, so a short clip is answered between two windows of an hour-long file. Steps of one
batch belong to one codec and are of one kind. The answer to a job does not depend on what
shares its batches; that is `Codec.run`'s promise.

A window of a long file takes a CPU longer than a whole clip does. So clips are let by in the
middle of one, between two of its layers, for as long as the window itself has had. What is urgent,
the next step of a stream whose listener has little left, is small: it has every other batch, and is
let by in the middle of anything else.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import structlog
import torch

from service.engine.queued_job import QueuedJob, Timing, resolve
from service.errors import EngineDeadError, NotReadyError, OverloadedError
from service.observability.metrics import Metrics
from snac_core.codec import Codec
from snac_core.inference.jobs import Job, Step

log = structlog.get_logger(__name__)


_Batch = list[tuple[QueuedJob, Step]]


class _BrokenError(BaseException):
    """The engine failed while it let clips by, and not the file that it held up for them."""


class Engine:
    """A queue bounded in audio-seconds, and the thread that empties it.

    Parameters
    ----------
    batch_seconds
        Audio-seconds in one batch, padding to its longest step included. One step always goes.
    max_queue_seconds
        Audio-seconds that may be queued. A job longer than that is taken when nothing else
        waits.
    metrics
        Told of every batch.
    turn_seconds
        Engine time, guessed from the rate so far, that a batch may take on top of one step of
        each job. It bounds how long a short clip waits for a long file's windows.
    """

    def __init__(
        self,
        batch_seconds: float,
        max_queue_seconds: float,
        metrics: Metrics,
        turn_seconds: float = 0.03,
    ) -> None:
        self.batch_seconds = batch_seconds
        self.max_queue_seconds = max_queue_seconds
        self.turn_seconds = turn_seconds
        self._metrics = metrics
        self._budget = batch_seconds
        self._queue: list[QueuedJob] = []
        self._running: _Batch = []
        self._queued_seconds = 0.0
        self._drain_rate: float | None = None
        self._last_urgent = False
        self._closing = False
        self._death: BaseException | None = None
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="snac-engine", daemon=True)
        metrics.queue_audio_seconds.set_function(lambda: self._queued_seconds)
        metrics.real_time_factor.set_function(lambda: self._drain_rate or 0.0)

    @property
    def alive(self) -> bool:
        """Whether jobs are being worked on."""
        return self._thread.is_alive() and self._death is None

    @property
    def died(self) -> bool:
        """Whether the thread ended by itself, and not because it was closed."""
        return self._death is not None

    @property
    def queued_seconds(self) -> float:
        """Audio-seconds that wait or are being worked on."""
        return self._queued_seconds

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Fail what still waits and end the thread after the batch it is in."""
        with self._wake:
            self._closing = True
            self._fail_all(NotReadyError("the service is stopping"))
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def run(self, codec: Codec, job: Job, *, urgent: bool = False) -> Timing:
        """Have ``codec`` work through ``job``; being cancelled takes it out of the queue.

        What is ``urgent`` goes first; it should be small.

        Raises
        ------
        OverloadedError
            If the queue is full, with the seconds it will take to make room.
        EngineDeadError, NotReadyError
            If the thread has ended or ends before the job is done.
        Exception
            Whatever the codec raised for this job's own steps.
        """
        return await asyncio.wrap_future(self.submit(codec, job, urgent=urgent))

    def submit(self, codec: Codec, job: Job, *, urgent: bool = False) -> Future[Timing]:
        """Queue ``job``; see `run`."""
        done: Future[Timing] = Future()
        with self._wake:
            self._check_open(job.seconds)
            self._queued_seconds += job.seconds
            work = QueuedJob(
                codec, job, done, deque(job.steps), len(job.steps), time.perf_counter(), urgent
            )
            self._queue.append(work)
            self._wake.notify()
        return done

    def check_open(self, seconds: float = 0.0) -> None:
        """Raise what `run` would raise now for so much audio, or for even a moment of it."""
        with self._wake:
            self._check_open(seconds)

    def _check_open(self, seconds: float) -> None:
        if self._death is not None:
            raise EngineDeadError("the engine thread has ended; the service must be restarted")
        if self._closing:
            raise NotReadyError("the service is stopping")
        idle = not self._queue and not self._running
        excess = self._queued_seconds + seconds - self.max_queue_seconds
        if excess >= 0 and not idle:
            raise OverloadedError(
                f"{self._queued_seconds:.0f} audio-seconds are waiting, of at most "
                f"{self.max_queue_seconds:.0f}",
                retry_after=excess / self._drain_rate if self._drain_rate else 1.0,
            )

    # The thread

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.critical("engine thread died", exc_info=True)
            with self._wake:
                self._death = error
                self._fail_all(EngineDeadError("the engine thread ended while this waited"))

    def _turn(self) -> bool:
        """Work on one batch, and let go of it before waiting for the next."""
        batch = self._take()
        if batch:
            self._work_on(batch)
        return bool(batch)

    def _take(self) -> _Batch:
        """Wait until there is work, and return the next batch; empty when closing."""
        with self._wake:
            while not self._closing:
                self._drop_abandoned()
                if self._queue:
                    self._running = self._pick(self._in_turn(self._queue))
                    return self._running
                self._wake.wait()
            return []

    def _drop_abandoned(self) -> None:
        abandoned = [work for work in self._queue if work.done.cancelled()]
        for work in abandoned:
            self._queue.remove(work)
            self._forget(work.waiting)

    def _forget(self, steps: Iterable[Step]) -> None:
        """Take ``steps`` off the count, which is nothing once nothing is there."""
        self._queued_seconds -= sum(step.seconds for step in steps)
        if not self._queue and not self._running:
            self._queued_seconds = 0.0  # rounding does not add up

    def _in_turn(self, waiting: list[QueuedJob]) -> list[QueuedJob]:
        """Return what is urgent first, or last if it had the batch before; else as it came."""
        return sorted(waiting, key=lambda work: work.urgent is self._last_urgent)

    def _pick(self, waiting: list[QueuedJob]) -> _Batch:
        """Take a step of each job that can join the first one's batch, then another of each."""
        head = waiting[0]
        self._last_urgent = head.urgent
        peers = [
            work for work in waiting if work.codec is head.codec and work.job.kind == head.job.kind
        ]
        batch: _Batch = []
        longest = 0.0
        took = True
        limit = self._budget
        while took:
            took = False
            for work in peers:
                if not work.waiting:
                    continue
                padded = max(longest, work.waiting[0].seconds)
                if batch and padded * (len(batch) + 1) > limit:
                    continue
                batch.append((work, work.waiting.popleft()))
                longest = padded
                took = True
            limit = min(self._budget, self.turn_seconds * (self._drain_rate or 0.0))
        served = {work for work, _ in batch}
        self._queue = [work for work in self._queue if work not in served]
        return batch

    def _work_on(self, batch: _Batch) -> None:
        started = time.perf_counter()
        for work, _ in batch:
            if not work.started:
                work.started = True
                work.timing.queue = started - work.queued_at
                self._metrics.queue_seconds.observe(work.timing.queue)
        lent = self._attempt_open_to_others(batch)
        elapsed = time.perf_counter() - started - lent
        seconds = sum(step.seconds for _, step in batch)
        for work in {work for work, _ in batch}:
            work.timing.inference += elapsed
        kind = batch[0][0].job.kind
        self._metrics.inference_seconds.labels(kind=kind).observe(elapsed)
        self._metrics.audio_seconds.labels(kind=kind).inc(seconds)
        self._metrics.batch_audio_seconds.labels(kind=kind).observe(seconds)
        self._metrics.batch_items.labels(kind=kind).observe(len(batch))
        self._finish(batch, seconds / elapsed)

    def _attempt_open_to_others(self, batch: _Batch) -> float:
        """Run ``batch``, letting by what is urgent, and clips if it is of long files.

        Returns the seconds that they took.
        """
        if batch[0][0].urgent:
            self._attempt(batch)
            return 0.0
        began, lent, long = time.perf_counter(), 0.0, any(work.long for work, _ in batch)

        def let_by() -> None:
            nonlocal lent
            started = time.perf_counter()
            if 2 * lent <= started - began:
                self._let_by(lambda work: work.urgent or (long and not work.long))
                lent += time.perf_counter() - started

        with batch[0][0].codec.preemptible(let_by):
            self._attempt(batch)
        return lent

    def _let_by(self, may: Callable[[QueuedJob], bool]) -> None:
        with self._wake:
            self._drop_abandoned()
            waiting = [work for work in self._queue if may(work)]
            if not waiting:
                return
            batch = self._pick(self._in_turn(waiting))
            self._running = self._running + batch
        try:
            self._work_on(batch)
        except Exception as error:
            raise _BrokenError from error

    def _attempt(self, batch: _Batch) -> None:
        """Run ``batch``; on failure its halves or its single steps, down to the one at fault."""
        culprit: Exception
        try:
            batch[0][0].codec.run([step for _, step in batch])
        except torch.OutOfMemoryError as error:
            cause, culprit = "out_of_memory", error
        except torch.AcceleratorError:
            raise  # the device refuses everything from now on; only a restart helps
        except Exception as error:  # noqa: BLE001 - the job it belongs to gets it
            cause, culprit = "error", error
        else:
            self._budget = min(self.batch_seconds, 1.02 * self._budget)
            return
        if len(batch) == 1:
            self._fail(batch[0][0], culprit)
            return
        log.warning("engine batch split", cause=cause, items=len(batch), error=str(culprit))
        self._metrics.engine_failures.labels(cause=cause).inc()
        del culprit  # and with it the frames that hold the failed batch's memory
        if cause == "out_of_memory":
            torch.cuda.empty_cache()
            self._budget = max(self._budget / 2, 1.0)
            middle = len(batch) // 2
            parts: Sequence[_Batch] = [batch[:middle], batch[middle:]]
        else:
            parts = [[item] for item in batch]
        for part in parts:
            self._attempt(part)

    def _finish(self, batch: _Batch, rate: float) -> None:
        with self._wake:
            ran = set(batch)
            self._running = [one for one in self._running if one not in ran]
            # Behind whoever came while this batch ran.
            self._queue += [work for work in dict.fromkeys(w for w, _ in batch) if work.waiting]
            self._forget(step for _, step in batch)
            self._drain_rate = (
                rate if self._drain_rate is None else 0.8 * self._drain_rate + 0.2 * rate
            )
        for work, _ in batch:
            work.left -= 1
            if work.left == 0:
                resolve(work.done, work.timing)

    def _fail(self, work: QueuedJob, error: Exception) -> None:
        with self._wake:
            self._forget(work.waiting)
            work.waiting.clear()
        resolve(work.done, error)

    def _fail_all(self, error: Exception) -> None:
        for work in {*self._queue, *(work for work, _ in self._running)}:
            resolve(work.done, error)
        self._queue, self._running, self._queued_seconds = [], [], 0.0

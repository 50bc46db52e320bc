"""The engine: one thread that owns the device and runs everybody's steps in shared batches.

A job (one file to encode, one set of codes to decode) is a list of steps: the windows that it is
cut into. Whenever the engine is free, the `Scheduler` picks the next batch of steps. A job's
result does not depend on the batches that it shares; `Codec.run` guarantees that.

One window of a long file takes a CPU longer than a whole short clip. So short clips preempt long
files between two layers, for as long as the window itself has run. Urgent stream steps are small:
they get every other batch, and preempt anything that is not urgent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import structlog
import torch

from service.engine.admissions import Admission
from service.engine.queued_job import QueuedJob, Timing, resolve
from service.engine.scheduler import Batch, Scheduler
from service.errors import EngineDeadError, NotReadyError
from service.observability.metrics import Metrics
from snac_core.codec import Codec
from snac_core.inference.jobs import Job

log = structlog.get_logger(__name__)


class _PreemptingError(BaseException):
    """A preempting batch broke the engine; the preempted batch is not at fault."""


class Engine:
    """The thread that runs jobs, and its `Scheduler`, whose parameters it takes.

    Every batch is recorded in ``metrics``.
    """

    def __init__(
        self,
        batch_seconds: float,
        max_queue_seconds: float,
        metrics: Metrics,
        turn_seconds: float = 0.03,
        caller_share: float = 1.0,
    ) -> None:
        self.scheduler = Scheduler(batch_seconds, max_queue_seconds, turn_seconds, caller_share)
        self._metrics = metrics
        self._closing = False
        self._death: BaseException | None = None
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="snac-engine", daemon=True)
        metrics.queue_audio_seconds.set_function(lambda: self.scheduler.queued_seconds)
        metrics.real_time_factor.set_function(lambda: self.scheduler.rate or 0.0)

    @property
    def alive(self) -> bool:
        """Whether jobs are being run."""
        return self._thread.is_alive() and self._death is None

    @property
    def died(self) -> bool:
        """Whether the thread ended by itself rather than by `close`."""
        return self._death is not None

    @property
    def queued_seconds(self) -> float:
        """Audio-seconds waiting or running."""
        return self.scheduler.queued_seconds

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Fail all jobs and end the thread after its current batch."""
        with self._wake:
            self._closing = True
            self._fail_all(NotReadyError("the service is stopping"))
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def run(
        self,
        codec: Codec,
        job: Job,
        *,
        urgent: bool = False,
        caller: str = "",
        admission: Admission | None = None,
    ) -> Timing:
        """Run ``job`` with ``codec``; cancelling this removes the job from the queue.

        An ``urgent`` job goes first; it should be small. Callers share the engine fairly. The job
        takes the place that ``admission`` held for it.

        Raises
        ------
        OverloadedError
            If the queue is full, with the seconds until it should have room.
        EngineDeadError, NotReadyError
            If the thread has ended, or ends before the job is done.
        Exception
            Whatever the codec raises for this job's own steps.
        """
        submitted = self.submit(codec, job, urgent=urgent, caller=caller, admission=admission)
        return await asyncio.wrap_future(submitted)

    def submit(
        self,
        codec: Codec,
        job: Job,
        *,
        urgent: bool = False,
        caller: str = "",
        admission: Admission | None = None,
    ) -> Future[Timing]:
        """Queue ``job``; see `run`."""
        done: Future[Timing] = Future()
        now = time.perf_counter()
        with self._wake:
            self._check_open(job.seconds, caller, admission)
            steps = deque(job.steps)
            queued = QueuedJob(codec, job, done, steps, len(steps), now, urgent, caller)
            self.scheduler.add(queued, admission)
            self._wake.notify()
        return done

    def admit(self, caller: str = "") -> Admission:
        """Hold a place for a job whose length is not known yet.

        Raises
        ------
        OverloadedError
            If a job of mean length does not fit, with the seconds until it should.
        EngineDeadError, NotReadyError
            As `run` does.
        """
        with self._wake:
            self._check_alive()
            return self.scheduler.admit(caller)

    def leave(self, admission: Admission) -> None:
        """Give up a place that no job will take."""
        with self._wake:
            self.scheduler.admissions.end(admission)

    def check_open(
        self, seconds: float, caller: str = "", admission: Admission | None = None
    ) -> None:
        """Raise what `run` would raise now for a job of ``seconds``."""
        with self._wake:
            self._check_open(seconds, caller, admission)

    def _check_open(self, seconds: float, caller: str, admission: Admission | None) -> None:
        self._check_alive()
        self.scheduler.check_open(seconds, caller, admission)

    def _check_alive(self) -> None:
        if self._death is not None:
            raise EngineDeadError("the engine thread has ended; the service must be restarted")
        if self._closing:
            raise NotReadyError("the service is stopping")

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
        """Run one batch; its variables, and so its memory, are free before the next wait."""
        batch = self._take()
        if batch:
            self._run(batch)
        return bool(batch)

    def _take(self) -> Batch:
        """Wait for the next batch; returns an empty one when closing."""
        with self._wake:
            while not self._closing:
                batch = self.scheduler.next_batch()
                if batch:
                    return batch
                self._wake.wait()
            return []

    def _run(self, batch: Batch) -> None:
        started = time.perf_counter()
        for queued, _ in batch:
            if not queued.started:
                queued.started = True
                queued.timing.queue = started - queued.queued_at
                self._metrics.queue_seconds.observe(queued.timing.queue)
        preempted_seconds = self._attempt_preemptible(batch)
        elapsed = time.perf_counter() - started - preempted_seconds
        for queued in {queued for queued, _ in batch}:
            queued.timing.inference += elapsed
        kind = batch[0][0].job.kind
        seconds = sum(step.seconds for _, step in batch)
        self._metrics.inference_seconds.labels(kind=kind).observe(elapsed)
        self._metrics.audio_seconds.labels(kind=kind).inc(seconds)
        self._metrics.batch_audio_seconds.labels(kind=kind).observe(seconds)
        self._metrics.batch_items.labels(kind=kind).observe(len(batch))
        with self._wake:
            self.scheduler.finish(batch, elapsed)
        for queued, _ in batch:
            queued.left -= 1
            if queued.left == 0:
                resolve(queued.done, queued.timing)

    def _attempt_preemptible(self, batch: Batch) -> float:
        """Attempt ``batch``, preempted by urgent jobs and, if it has long files, by short clips.

        Returns the seconds that preempting batches took.
        """
        if batch[0][0].urgent:
            self._attempt(batch)
            return 0.0
        began, preempted_seconds = time.perf_counter(), 0.0
        long = any(queued.long for queued, _ in batch)

        def on_layer() -> None:
            nonlocal preempted_seconds
            started = time.perf_counter()
            if 2 * preempted_seconds <= started - began:
                self._preempt(lambda queued: queued.urgent or (long and not queued.long))
                preempted_seconds += time.perf_counter() - started

        with batch[0][0].codec.preemptible(on_layer):
            self._attempt(batch)
        return preempted_seconds

    def _preempt(self, eligible: Callable[[QueuedJob], bool]) -> None:
        with self._wake:
            batch = self.scheduler.next_batch(eligible)
        if batch:
            try:
                self._run(batch)
            except Exception as error:
                raise _PreemptingError from error

    def _attempt(self, batch: Batch) -> None:
        """Run ``batch``; on failure its halves or its single steps, down to the one at fault."""
        culprit: Exception
        try:
            batch[0][0].codec.run([step for _, step in batch])
        except torch.OutOfMemoryError as error:
            cause, culprit = "out_of_memory", error
        except torch.AcceleratorError:
            raise  # the device fails every call from now on; only a restart helps
        except Exception as error:  # noqa: BLE001 - the job at fault gets it
            cause, culprit = "error", error
        else:
            self.scheduler.recover()
            return
        if len(batch) == 1:
            with self._wake:
                self.scheduler.drop(batch[0][0])
            resolve(batch[0][0].done, culprit)
            return
        log.warning("engine batch split", cause=cause, items=len(batch), error=str(culprit))
        self._metrics.engine_failures.labels(cause=cause).inc()
        del culprit  # its traceback keeps the failed batch's memory
        if cause == "out_of_memory":
            torch.cuda.empty_cache()
            self.scheduler.shrink()
            middle = len(batch) // 2
            parts: Sequence[Batch] = [batch[:middle], batch[middle:]]
        else:
            parts = [[item] for item in batch]
        for part in parts:
            self._attempt(part)

    def _fail_all(self, error: Exception) -> None:
        for queued in self.scheduler.clear():
            resolve(queued.done, error)

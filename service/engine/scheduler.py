"""The engine's policy: which steps run next, in which batch, and how much may be queued.

Jobs take turns, one step each, so that a short clip does not wait for all windows of a long file.
A batch holds steps of one codec and one kind. Urgent jobs (the next step of a stream whose
listener has little audio left) get every other batch.

Callers take turns as well: the caller that has used less of the engine goes first, so that a
caller with many jobs gets no more than one with few. It is start-time fair queueing (Goyal, Vin
and Cheng 1996), with audio-seconds as the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from service.engine.admissions import Admission, Admissions
from service.engine.queued_job import QueuedJob
from service.errors import OverloadedError
from service.shares import Shares
from snac_core.inference.jobs import Step

Batch = list[tuple[QueuedJob, Step]]


class Scheduler:
    """A queue bounded in audio-seconds. It has no lock: the engine holds its own for each call.

    Parameters
    ----------
    batch_seconds
        Audio-seconds in one batch, including the padding to its longest step. A batch has at
        least one step, however long.
    max_queue_seconds
        Audio-seconds that may be queued, or expected of requests that were admitted. A longer job
        is accepted while nothing else waits.
    caller_share
        Part of the queue that one caller may have alone; see `service.shares`.
    turn_seconds
        Engine time, estimated from the rate so far, that a batch may take beyond one step of
        each job. It bounds how long a short clip waits for the windows of a long file.
    """

    def __init__(
        self,
        batch_seconds: float,
        max_queue_seconds: float,
        turn_seconds: float,
        caller_share: float = 1.0,
    ) -> None:
        self.batch_seconds = batch_seconds
        self.max_queue_seconds = max_queue_seconds
        self.turn_seconds = turn_seconds
        self.waiting: list[QueuedJob] = []
        self.running: Batch = []
        self.queued_seconds = 0.0
        """Audio-seconds waiting or running."""
        self.admissions = Admissions()
        self.rate: float | None = None
        """Audio-seconds per second of engine time, a moving average over batches."""
        self._budget = batch_seconds
        self._last_urgent = False
        self._share = caller_share
        self._served: dict[str, float] = {}
        self._refused = 0.0
        """Audio-seconds of refused jobs that are not yet due to retry."""

    def check_open(
        self, seconds: float | None, caller: str = "", admission: Admission | None = None
    ) -> None:
        """Raise OverloadedError if ``seconds`` more of ``caller`` do not fit.

        None stands for a job of unknown length, before its body is read: it counts as a job of
        mean length. So most jobs past the limit are refused before they cost anything.

        A job with an ``admission`` was let in as one of that length. It is refused only if it is
        longer by more than `slack`, or if the queue is longer than its bound by as much: work
        that is done for it is not done in vain, and long jobs have the chance of short ones.
        """
        if seconds is None:
            seconds = self.admissions.expected
        jobs = self._jobs()
        ahead = [one for one in self.admissions.held() if one is not admission]
        idle = not jobs and (admission is not None or not ahead)
        slack = 0.0 if admission is None else self.slack
        excess = self.queued_seconds + sum(one.seconds for one in ahead) + seconds
        excess -= self.max_queue_seconds + slack
        if excess >= 0 and not idle:
            raise OverloadedError(
                f"{self.queued_seconds:.0f} audio-seconds are waiting, of at most "
                f"{self.max_queue_seconds:.0f}, and {len(ahead)} requests are being read",
                retry_after=self._turn_of(seconds, excess),
            )
        admitted = admission is not None and seconds <= admission.seconds + slack
        if idle or admitted or not caller:
            return
        shares = Shares(self.max_queue_seconds, self._share)
        for queued in jobs:
            shares.take(queued.caller, sum(step.seconds for step in queued.waiting))
        for one in ahead:
            shares.take(one.caller, one.seconds)
        if not shares.allows(caller, seconds):
            raise OverloadedError(
                f"{shares.of(caller):.0f} audio-seconds of this caller are waiting, which is its "
                f"share of {self.max_queue_seconds:.0f}",
                retry_after=self._turn_of(seconds, seconds),
            )

    @property
    def slack(self) -> float:
        """Audio-seconds by which admitted jobs may pass the bound: a batch, a tenth at most."""
        return min(self.batch_seconds, self.max_queue_seconds / 10)

    def admit(self, caller: str) -> Admission:
        """Hold a place for a job of unknown length; raises OverloadedError if there is none."""
        self.check_open(None, caller)
        return self.admissions.add(caller)

    def add(self, queued: QueuedJob, admission: Admission | None = None) -> None:
        """Queue a job, in the place that ``admission`` held for it.

        A caller that was idle gets no credit for the time it was idle.
        """
        self.queued_seconds += queued.job.seconds
        if admission is not None:
            self.admissions.end(admission)
            self.admissions.learn(queued.job.seconds)
        callers = {one.caller for one in self._jobs()}
        self._served = {caller: self._served.get(caller, 0.0) for caller in callers}
        self._served.setdefault(queued.caller, min(self._served.values(), default=0.0))
        self.waiting.append(queued)

    def next_batch(self, eligible: Callable[[QueuedJob], bool] = lambda queued: True) -> Batch:
        """Take the next batch of eligible jobs, empty if there is none; drops cancelled jobs.

        It joins what is running until it is passed to `finish`.
        """
        for queued in [queued for queued in self.waiting if queued.done.cancelled()]:
            self.waiting.remove(queued)
            self._discount(queued.waiting)
        candidates = self._in_turn([queued for queued in self.waiting if eligible(queued)])
        if not candidates:
            return []
        batch = self._fill(candidates)
        for queued, step in batch:
            self._served[queued.caller] = self._served.get(queued.caller, 0.0) + step.seconds
        served = {queued for queued, _ in batch}
        self.waiting = [queued for queued in self.waiting if queued not in served]
        self.running = self.running + batch
        return batch

    def finish(self, batch: Batch, seconds: float) -> None:
        """Take a batch that ran for ``seconds`` off the count, and queue its jobs' next steps."""
        ran = set(batch)
        self.running = [one for one in self.running if one not in ran]
        # Behind the jobs that came while this batch ran.
        self.waiting += [
            queued for queued in dict.fromkeys(queued for queued, _ in batch) if queued.waiting
        ]
        self._discount(step for _, step in batch)
        rate = sum(step.seconds for _, step in batch) / seconds
        self.rate = rate if self.rate is None else 0.8 * self.rate + 0.2 * rate

    def drop(self, queued: QueuedJob) -> None:
        """Forget the steps of a failed job that have not run."""
        self._discount(queued.waiting)
        queued.waiting.clear()

    def clear(self) -> set[QueuedJob]:
        """Clear the queue; returns the jobs that were waiting or running."""
        jobs = self._jobs()
        self.waiting, self.running = [], []
        self.queued_seconds = self._refused = 0.0
        return jobs

    def shrink(self) -> None:
        """Halve the batch budget after running out of memory, to 1 audio-second at least."""
        self._budget = max(self._budget / 2, 1.0)

    def recover(self) -> None:
        """Raise the batch budget by 2% after a success, to ``batch_seconds`` at most."""
        self._budget = min(self.batch_seconds, 1.02 * self._budget)

    def _turn_of(self, seconds: float, excess: float) -> float:
        """Return the seconds until ``excess`` and all jobs refused before this one have run.

        Otherwise all refused clients would retry at the same time, and few would fit. Some do not
        retry, so the refused jobs count for no more than one full queue.
        """
        if not self.rate:
            return 1.0
        wait = (excess + self._refused) / self.rate
        self._refused = min(self._refused + seconds, self.max_queue_seconds)
        return wait

    def _in_turn(self, jobs: list[QueuedJob]) -> list[QueuedJob]:
        """Return urgent jobs first, or last if they had the batch before; then by fair turns.

        A job's turn is what its caller has used, plus its earlier jobs in the queue.
        """
        turns: dict[QueuedJob, tuple[bool, float]] = {}
        ahead: dict[str, float] = {}
        for queued in jobs:
            turn = ahead.get(queued.caller, self._served.get(queued.caller, 0.0))
            turns[queued] = queued.urgent is self._last_urgent, turn
            ahead[queued.caller] = turn + queued.waiting[0].seconds
        return sorted(jobs, key=turns.__getitem__)

    def _jobs(self) -> set[QueuedJob]:
        return {*self.waiting, *(queued for queued, _ in self.running)}

    def _fill(self, candidates: list[QueuedJob]) -> Batch:
        """Take one step of each job that can join the first one's batch, then more in turn."""
        head = candidates[0]
        self._last_urgent = head.urgent
        peers = [
            queued
            for queued in candidates
            if queued.codec is head.codec and queued.job.kind == head.job.kind
        ]
        batch: Batch = []
        longest, limit, took = 0.0, self._budget, True
        while took:
            took = False
            for queued in peers:
                if not queued.waiting:
                    continue
                padded = max(longest, queued.waiting[0].seconds)
                if batch and padded * (len(batch) + 1) > limit:
                    continue
                batch.append((queued, queued.waiting.popleft()))
                longest, took = padded, True
            limit = min(self._budget, self.turn_seconds * (self.rate or 0.0))
        return batch

    def _discount(self, steps: Iterable[Step]) -> None:
        gone = sum(step.seconds for step in steps)
        self.queued_seconds -= gone
        self._refused = max(0.0, self._refused - gone)
        if not self.waiting and not self.running:
            self.queued_seconds = self._refused = 0.0  # rounding errors would accumulate

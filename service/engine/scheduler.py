"""The engine's policy: which steps run next, in which batch, and how much may be queued.

Jobs take turns, one step each, so that a short clip does not wait for all windows of a long file.
A batch holds steps of one codec and one kind. Urgent jobs (the next step of a stream whose
listener has little audio left) get every other batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from service.engine.queued_job import QueuedJob
from service.errors import OverloadedError
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
        Audio-seconds that may be queued. A longer job is accepted while nothing else waits.
    turn_seconds
        Engine time, estimated from the rate so far, that a batch may take beyond one step of
        each job. It bounds how long a short clip waits for the windows of a long file.
    """

    def __init__(self, batch_seconds: float, max_queue_seconds: float, turn_seconds: float) -> None:
        self.batch_seconds = batch_seconds
        self.max_queue_seconds = max_queue_seconds
        self.turn_seconds = turn_seconds
        self.waiting: list[QueuedJob] = []
        self.running: Batch = []
        self.queued_seconds = 0.0
        """Audio-seconds waiting or running."""
        self.rate: float | None = None
        """Audio-seconds per second of engine time, a moving average over batches."""
        self._budget = batch_seconds
        self._last_urgent = False

    def check_open(self, seconds: float) -> None:
        """Raise OverloadedError if ``seconds`` more do not fit."""
        idle = not self.waiting and not self.running
        excess = self.queued_seconds + seconds - self.max_queue_seconds
        if excess >= 0 and not idle:
            raise OverloadedError(
                f"{self.queued_seconds:.0f} audio-seconds are waiting, of at most "
                f"{self.max_queue_seconds:.0f}",
                retry_after=excess / self.rate if self.rate else 1.0,
            )

    def add(self, queued: QueuedJob) -> None:
        """Queue a job."""
        self.queued_seconds += queued.job.seconds
        self.waiting.append(queued)

    def next_batch(self, eligible: Callable[[QueuedJob], bool] = lambda queued: True) -> Batch:
        """Take the next batch of eligible jobs, empty if there is none; drops cancelled jobs.

        It joins what is running until it is passed to `finish`.
        """
        for queued in [queued for queued in self.waiting if queued.done.cancelled()]:
            self.waiting.remove(queued)
            self._discount(queued.waiting)
        # Urgent jobs first, or last if they had the batch before; otherwise first come.
        candidates = sorted(
            filter(eligible, self.waiting), key=lambda queued: queued.urgent is self._last_urgent
        )
        if not candidates:
            return []
        batch = self._fill(candidates)
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
        """Forget everything; returns the jobs that were waiting or running."""
        jobs = {*self.waiting, *(queued for queued, _ in self.running)}
        self.waiting, self.running, self.queued_seconds = [], [], 0.0
        return jobs

    def shrink(self) -> None:
        """Halve the batch budget after running out of memory, to 1 audio-second at least."""
        self._budget = max(self._budget / 2, 1.0)

    def recover(self) -> None:
        """Raise the batch budget by 2% after a success, to ``batch_seconds`` at most."""
        self._budget = min(self.batch_seconds, 1.02 * self._budget)

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
        self.queued_seconds -= sum(step.seconds for step in steps)
        if not self.waiting and not self.running:
            self.queued_seconds = 0.0  # rounding errors would accumulate

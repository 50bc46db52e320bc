"""A job in the engine's queue, the future that waits for it, and its timing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from concurrent.futures import Future, InvalidStateError

from snac_core.codec import Codec
from snac_core.inference.jobs import Job, Step


@dataclasses.dataclass
class Timing:
    """Seconds that one job spent waiting and computing."""

    queue: float = 0.0
    inference: float = 0.0


@dataclasses.dataclass(eq=False)
class QueuedJob:
    """A job, its future, and the codec that planned it and runs all its steps."""

    codec: Codec
    job: Job
    done: Future[Timing]
    waiting: deque[Step]
    left: int
    queued_at: float
    urgent: bool
    caller: str = ""
    timing: Timing = dataclasses.field(default_factory=Timing)
    started: bool = False

    @property
    def long(self) -> bool:
        """Whether the job has several windows."""
        return len(self.job.windows) > 1


def resolve(done: Future[Timing], outcome: Timing | Exception) -> None:
    """Set the future's outcome, unless it is cancelled or done already."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

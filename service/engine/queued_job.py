"""What the engine works on: a job, who waits for it, and how its time went."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from concurrent.futures import Future, InvalidStateError

from snac_core.codec import Codec
from snac_core.inference.jobs import Job, Step


@dataclasses.dataclass
class Timing:
    """Where the seconds of one job went."""

    queue: float = 0.0
    inference: float = 0.0


@dataclasses.dataclass(eq=False)
class QueuedJob:
    """A job and who waits for it. The codec is the one that planned it, to the end."""

    codec: Codec
    job: Job
    done: Future[Timing]
    waiting: deque[Step]
    left: int
    queued_at: float
    urgent: bool
    timing: Timing = dataclasses.field(default_factory=Timing)
    started: bool = False

    @property
    def long(self) -> bool:
        """Whether it is cut into windows."""
        return len(self.job.windows) > 1


def resolve(done: Future[Timing], outcome: Timing | Exception) -> None:
    """Tell the waiter, unless it has gone or was told before."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

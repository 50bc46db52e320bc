"""The threads in which bodies are read and answers written, shared out among all requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.observability.metrics import Metrics
from snac_core.utils.incremental import Incremental

TURN_SECONDS = 0.1
"""How much of a core work in pieces has before others have its thread."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class IoPool:
    """A few threads, and who has them.

    What nobody waits for any more does not begin; if it has begun and is done piecemeal, it ends
    with its turn.

    Parameters
    ----------
    count
        Threads. Long work has all but one of them.
    metrics
        Told how much is there to do.
    """

    def __init__(self, count: int, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="snac-io")
        self._long = asyncio.Semaphore(max(1, count - 1))
        self._jobs = metrics.io_jobs

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``function``, which once begun is not stopped, in one of the threads."""
        return await asyncio.wrap_future(self._submit(function, *args, **kwargs))

    async def run_incremental(self, begin: Callable[[], Incremental[_T]]) -> _T:
        """Do the work that ``begin`` returns, turn by turn; being cancelled ends it.

        What is not done in one turn is long, and only so much of that is under way at a time:
        a recording that is half read takes memory. If it has to wait, it begins again.
        """
        work = begin()
        turn = self._submit(_turn, work)
        try:
            done = await asyncio.wrap_future(turn)
            if done is None:
                if self._long.locked():
                    work.close()
                    work = begin()
                async with self._long:
                    while done is None:
                        turn = self._submit(_turn, work)
                        done = await asyncio.wrap_future(turn)
            return done[0]
        finally:
            turn.add_done_callback(lambda _: work.close())

    def close(self) -> None:
        """Wait for what has begun, and begin nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        future = self._pool.submit(function, *args, **kwargs)
        self._jobs.inc()
        future.add_done_callback(lambda _: self._jobs.dec())
        return future


def _turn(work: Incremental[_T]) -> tuple[_T] | None:
    """Work for a turn; returns the result once there is one."""
    # Not by the clock on the wall: where many compete for few cores, all work would be long.
    until = time.thread_time() + TURN_SECONDS
    while True:
        try:
            next(work)
        except StopIteration as end:
            return (end.value,)
        if time.thread_time() >= until:
            return None

"""The threads that read request bodies and write responses, shared by all requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.observability.metrics import Metrics
from snac_core.utils.incremental import Incremental

TURN_SECONDS = 0.1
"""CPU seconds that incremental work runs before it yields its thread."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class IoPool:
    """A thread pool in which long work cannot occupy every thread.

    Cancelled work is not started. Incremental work that has started ends with its current turn.

    Parameters
    ----------
    count
        Number of threads. Long work may use all but one of them.
    metrics
        Receives the number of jobs running or waiting.
    """

    def __init__(self, count: int, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="snac-io")
        self._long = asyncio.Semaphore(max(1, count - 1))
        self._jobs = metrics.io_jobs

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``function`` in a thread; once started it runs to its end."""
        return await asyncio.wrap_future(self._submit(function, *args, **kwargs))

    async def run_incremental(self, begin: Callable[[], Incremental[_T]]) -> _T:
        """Run the incremental work that ``begin`` returns, turn by turn, until done or cancelled.

        Work that needs more than one turn is long. The number of long works in progress is
        limited, because a partly read recording occupies memory: one that must wait is discarded
        and starts again.
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
        """Wait for running work, and start no new work."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        future = self._pool.submit(function, *args, **kwargs)
        self._jobs.inc()
        future.add_done_callback(lambda _: self._jobs.dec())
        return future


def _turn(work: Incremental[_T]) -> tuple[_T] | None:
    """Run for one turn; return the result in a tuple, or None if there is more to do."""
    # CPU time, not wall-clock time: with many threads on few cores, all work would seem long.
    until = time.thread_time() + TURN_SECONDS
    while True:
        try:
            next(work)
        except StopIteration as end:
            return (end.value,)
        if time.thread_time() >= until:
            return None

"""A pool of processes that measure recordings for one process that records the results."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

from trainer.errors import TrainerError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 3
"""Tasks under way or waiting for each process; more would only take memory."""


def available() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Workers:
    """A pool of processes, started when first used; a context manager.

    Parameters
    ----------
    count
        Processes; with one, the work is done in this process.
    modules
        What each imports before its first task.
    what
        What they do, in the past tense, for the message about one that died.
    """

    def __init__(
        self, count: int, modules: Sequence[str] = (), what: str = "read recordings"
    ) -> None:
        self.count, self.modules, self.what = count, list(modules), what
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the result of each task in turn, with a few tasks taken ahead.

        Raises
        ------
        TrainerError
            When a process dies, as a decoder may on what is no audio.
        """
        if self.count <= 1:
            yield from map(work, tasks)
            return
        if self._pool is None:
            # Not forked from this process, which has threads of its own.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(self.modules)
            self._pool = ProcessPoolExecutor(self.count, context)
        waiting: deque[tuple[Task, Future[Result]]] = deque()
        for task in tasks:
            waiting.append((task, self._pool.submit(work, task)))
            if len(waiting) >= AHEAD * self.count:
                yield self._result(*waiting.popleft())
        while waiting:
            yield self._result(*waiting.popleft())

    def _result(self, task: Task, future: Future[Result]) -> Result:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise TrainerError(
                f"a process that {self.what} died, at or soon after {str(task)[:500]}"
            ) from error

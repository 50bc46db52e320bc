"""A thread for what may take as long as a disk or a network likes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_Call = tuple[Future[Any], Callable[[], Any]]


class Loader:
    """Runs calls one after the other in a daemon thread.

    Parameters
    ----------
    name
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._began: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """How long the call that is under way has taken; 0 if there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return self._calls.qsize()

    def submit(self, function: Callable[[], _T]) -> Future[_T]:
        """Queue a call."""
        future: Future[_T] = Future()
        self._calls.put((future, function))
        if self._closed:
            future.cancel()
        return future

    def close(self) -> None:
        """Begin nothing more; what is under way may never end."""
        self._closed = True
        self._calls.put((Future(), lambda: None))

    def _loop(self) -> None:
        while True:
            future, function = self._calls.get()
            if self._closed:
                future.cancel()
                if self._calls.empty():
                    return
                continue
            if not future.set_running_or_notify_cancel():
                continue
            self._began = time.monotonic()
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
                future.set_exception(error)
            finally:
                self._began = None

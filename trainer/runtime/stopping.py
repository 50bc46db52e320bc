"""Graceful stops on signals."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from trainer.runtime.distributed import is_worker

REPEAT_SECONDS = 1.0
"""A signal that follows another so soon is the same one: ``timeout`` sends its signal to the
process and then to the group that the process is in."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised at a point where a run can stop without losing anything."""


class SignalCount:
    """Counts the signals that ask a process to end."""

    def __init__(self) -> None:
        self._count, self._last = 0, -REPEAT_SECONDS

    def add(self) -> int:
        """Count a signal, and return the total."""
        now = time.monotonic()
        self._count += now - self._last >= REPEAT_SECONDS
        self._last = now
        return self._count


class StopRequest:
    """What signals have requested of this process.

    Attributes
    ----------
    requested
        Whether SIGTERM or SIGINT (Ctrl-C) has asked it to end.
    save_requested
        Whether SIGUSR1, which Slurm can send some time before it ends a job, has asked it to
        save and go on.
    """

    def __init__(self) -> None:
        self.requested = self.save_requested = False
        self._signals = SignalCount()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal ``number``: a second one does not wait for a good moment."""
        if number == signal.SIGUSR1:
            self.save_requested = True
            return
        # A launcher passes on what has reached its processes too, and ends them by itself.
        if self._signals.add() > 1 and not is_worker():
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Record signals instead of dying from them; does nothing outside the main thread."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

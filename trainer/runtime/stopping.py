"""Ending a run in good order when somebody asks it to."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from trainer.runtime.distributed import is_worker


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised where a run can be left so that nothing is lost."""


class StopRequest:
    """Whether SIGTERM or SIGINT (Ctrl-C) has asked this process to end."""

    def __init__(self) -> None:
        self.requested = False
        self._owner = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal ``number``: the second one does not wait for a good moment."""
        if os.getpid() != self._owner:
            # A process that reads data, ended by the one that trains. Ctrl-C reaches both.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        # torchrun passes on what the terminal has already sent to all.
        if self.requested and not is_worker():
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Note signals instead of dying of them; in another thread than the first, hear none."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

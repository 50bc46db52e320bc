"""Waiting for what a server does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once ``condition`` holds; a test in which it never does fails."""
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 400 s"
        time.sleep(0.01)

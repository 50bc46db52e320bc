"""What a stream is in either direction: input that waits, steps in order, results to pull."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from snac_core.codec import Codec
from snac_core.streaming.network import Direction, StreamNetwork, stream_network
from snac_core.streaming.state import OPEN


class Stream(ABC):
    """What both directions share: steps taken one after the other, and their results."""

    def __init__(self, codec: Codec, direction: Direction) -> None:
        self.codec, self.config, self.networks = codec, codec.config, codec.networks
        self.network: StreamNetwork = stream_network(codec.networks, direction)
        self._step_samples = codec.config.pad_multiple
        self._pushed = 0
        self._end: int | None = None
        self._taken = 0
        self._running = False
        self._made: deque[Any] = deque()
        self._slot: int | None = None
        self._release: Callable[[], object] = tuple

    @property
    def ready(self) -> int:
        """Steps that can run now, not counting one that was taken and has not run."""
        if self._end is None:
            return self._pushed // self._step_samples - self._taken
        if not self._end:
            return 0
        last = self._needed() + self.network.delay
        return max(0, math.ceil(last / self._step_samples) - self._taken)

    @property
    def closed(self) -> bool:
        """Whether the end of the input is known."""
        return self._end is not None

    @property
    def done(self) -> bool:
        """Whether the input has ended and every step has run; `pull` then has all the rest."""
        return self.closed and not self._running and not self.ready

    @property
    def end(self) -> int:
        """Samples of the clip, padding included; `OPEN` while they are not known."""
        return OPEN if self._end is None else self._end

    @property
    def slot(self) -> int:
        """This stream's slot in the network's state pool."""
        if self._slot is None:
            raise RuntimeError("the stream has taken no step yet")
        return self._slot

    @abstractmethod
    def _needed(self) -> int:
        """Return how many samples, or the codes of how many, are to be given."""

    def _next_start(self) -> int:
        start = self._taken * self._step_samples
        self._taken += 1
        self._running = True
        if self._slot is None:
            self._slot = self.network.pool.acquire()
            release = weakref.finalize(self, self.network.pool.release, self._slot)
            release.atexit = False
            self._release = release
        return start

    def _need_open(self) -> None:
        if self.closed:
            raise RuntimeError("the stream is closed")

    def _step_ran(self, result: Any) -> None:
        self._made.append(result)
        self._running = False
        if self.done:
            self._release()

    def _drain(self) -> list[Any]:
        # One at a time: another thread may be adding to them.
        return [self._made.popleft() for _ in range(len(self._made))]

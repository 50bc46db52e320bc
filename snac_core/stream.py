"""What a stream is in either direction: input that waits, steps in order, results to pull."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from snac_core.codec import Codec
from snac_core.delay import OPEN
from snac_core.stream_network import Direction, StreamNetwork, stream_network

Item = TypeVar("Item", bound=np.generic)


class Pending(Generic[Item]):
    """Numbers that came and wait for a step."""

    def __init__(self, dtype: type[Item]) -> None:
        self._dtype = dtype
        self._parts: deque[npt.NDArray[Item]] = deque()
        self._length = 0

    def append(self, part: npt.NDArray[Item]) -> None:
        """Add ``part`` at the end; later changes of it are not seen."""
        self._parts.append(part.copy())
        self._length += len(part)

    def take(self, count: int) -> npt.NDArray[Item]:
        """Return the first ``count`` numbers, or zeros where there are fewer."""
        out = np.zeros(count, self._dtype)
        filled = 0
        while self._parts and filled < count:
            part = self._parts.popleft()
            used = part[: count - filled]
            out[filled : filled + len(used)] = used
            filled += len(used)
            if len(used) < len(part):
                self._parts.appendleft(part[len(used) :])
        self._length -= filled
        return out

    def __len__(self) -> int:
        return self._length


class Stream(ABC):
    """What both directions share: steps taken one after the other, and their results."""

    def __init__(self, codec: Codec, direction: Direction) -> None:
        self.codec, self.config = codec, codec.config
        self.network: StreamNetwork = stream_network(codec, direction)
        self._step_samples = codec.config.pad_multiple
        self._pushed = 0
        self._end: int | None = None
        self._taken = 0
        self._running = False
        self._made: deque[Any] = deque()
        self._row: int | None = None
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
    def row(self) -> int:
        """This stream's row in the network's memory."""
        if self._row is None:
            raise RuntimeError("the stream has taken no step yet")
        return self._row

    @abstractmethod
    def _needed(self) -> int:
        """Return how many samples, or the codes of how many, are to be given."""

    def _next_start(self) -> int:
        start = self._taken * self._step_samples
        self._taken += 1
        self._running = True
        if self._row is None:
            self._row = self.network.memory.take()
            release = weakref.finalize(self, self.network.memory.give_back, self._row)
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

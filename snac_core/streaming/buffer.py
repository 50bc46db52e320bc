"""A first-in first-out buffer of array pieces."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item", bound=np.generic)


class Fifo(Generic[Item]):
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

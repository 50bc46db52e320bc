"""Fair shares of resources that all callers share: streams, queue and memory."""

from __future__ import annotations

from collections import defaultdict


class Shares:
    """Who has how much of something that is bounded for all together.

    A caller may take more while it has at most ``share / (1 - share)`` times what is then free: a
    dynamic threshold, Choudhury and Hahne 1998. Alone it gets ``share`` of everything; what is
    left lets others in, and as they come, each ends with the same. Who has nothing may always
    take what is free.

    Parameters
    ----------
    most
        The bound, in any unit.
    share
        Part of it that one caller may have alone, above 0; 1 lets one have all.
    """

    def __init__(self, most: float, share: float) -> None:
        self.most, self._share = most, share
        self.used = 0.0
        self._of: defaultdict[str, float] = defaultdict(float)

    def of(self, caller: str) -> float:
        """Return how much ``caller`` has."""
        return self._of.get(caller, 0.0)

    def allows(self, caller: str, more: float) -> bool:
        """Whether ``caller`` may take ``more`` in addition to what it has."""
        free, has = self.most - self.used, self.of(caller)
        if more > free:
            return False
        return has == 0 or (has + more) * (1 - self._share) <= self._share * free

    def take(self, caller: str, more: float) -> None:
        """Count ``more`` for ``caller``, or less if it is negative."""
        self.used += more
        self._of[caller] += more
        if abs(self._of[caller]) < 1e-6:
            del self._of[caller]
        if not self._of:
            self.used = 0.0  # rounding errors would accumulate

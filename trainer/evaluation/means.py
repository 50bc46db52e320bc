"""Running means over recordings, without keeping the recordings' figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Mean:
    """The mean of what was added, and how sure it is; values that are not finite are left out."""

    def __init__(self) -> None:
        self.count, self.positive, self.negative = 0, 0, 0
        self._mean, self._squares = 0.0, 0.0

    def add(self, value: float) -> None:
        """Add one value (Welford, 1962, so that nothing cancels)."""
        if not math.isfinite(value):
            return
        self.count += 1
        self.positive += value > 0
        self.negative += value < 0
        step = value - self._mean
        self._mean += step / self.count
        self._squares += step * (value - self._mean)

    @property
    def mean(self) -> float | None:
        """None when nothing was added."""
        return self._mean if self.count else None

    @property
    def ci95(self) -> float | None:
        """Half the width of the mean's 95% confidence interval, by the normal approximation.

        None for fewer than two values.
        """
        if self.count < 2:
            return None
        return 1.96 * math.sqrt(self._squares / (self.count - 1) / self.count)


class Means:
    """A `Mean` for every name."""

    def __init__(self) -> None:
        self._means: dict[str, Mean] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value under each name."""
        for name, value in values.items():
            self._means.setdefault(name, Mean()).add(value)

    def __getitem__(self, name: str) -> Mean:
        """Return the mean of ``name``, empty if nothing was added."""
        return self._means.get(name, Mean())

    def to_dict(self) -> dict[str, Any]:
        """Return each name's mean, None where nothing finite was added."""
        return {name: mean.mean for name, mean in self._means.items()}

"""The worst recordings by each metric."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.evaluation.models import BASE, FINETUNED
from trainer.evaluation.speech_quality import Measure

COUNT = 5
"""Recordings in each list."""


class Worst:
    """Keeps the worst few recordings of each measure.

    Parameters
    ----------
    measures
        What is measured.
    role
        Whose reconstructions; with a base, also where they lost most against it.
    """

    def __init__(self, measures: Sequence[Measure], role: str) -> None:
        self.measures, self.role = measures, role
        self._found: dict[tuple[str, str], list[tuple[float, int, dict[str, Any]]]] = {}
        self._count = 0

    def add(self, path: str, group: str, row: Mapping[str, float]) -> None:
        """Take one recording's figures."""
        self._count += 1
        for measure in self.measures:
            value = row.get(f"{self.role}_{measure.name}", math.nan)
            self._keep(measure, "value", value, path, group)
            if self.role == FINETUNED:
                before = row.get(f"{BASE}_{measure.name}", math.nan)
                self._keep(measure, "change", value - before, path, group)

    def _keep(self, measure: Measure, kind: str, value: float, path: str, group: str) -> None:
        badness = -value if measure.higher_is_better else value
        if not math.isfinite(badness) or (kind == "change" and badness <= 0):
            return
        kept = self._found.setdefault((measure.name, kind), [])
        # Of two that are as bad, the first one stays.
        entry = (badness, -self._count, {"path": path, "group": group, "value": value})
        if len(kept) < COUNT:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)

    def to_dict(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Return, by measure, ``value`` and ``change``: lists of recordings, the worst first."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for (measure, kind), kept in self._found.items():
            found.setdefault(measure, {})[kind] = [one for *_, one in sorted(kept, reverse=True)]
        return found

"""Requests that were let in and whose jobs are not queued yet.

Between its headers and its job a request is uploaded, read and resampled. Were it not counted
meanwhile, more would be let in than the queue holds, and be refused after all that work.
"""

from __future__ import annotations

import dataclasses
import time

LAPSE_SECONDS = 5.0
"""How long a request is counted before its job is queued. A slow upload holds no place longer."""

_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Admission:
    """One request's place: whose it is, and the audio-seconds that it counts for."""

    caller: str
    seconds: float = 0.0
    until: float = 0.0


class Admissions:
    """The places that are held. It has no lock: the engine holds its own for each call."""

    def __init__(self) -> None:
        self.expected = 0.0
        """Audio-seconds of a job of which nothing is known: a moving mean of those so far."""
        self._held: dict[Admission, None] = {}
        self._known = False

    def add(self, caller: str) -> Admission:
        """Hold a place for a job of ``caller``."""
        admission = Admission(caller, self.expected, time.monotonic() + LAPSE_SECONDS)
        self._held[admission] = None
        return admission

    def end(self, admission: Admission) -> None:
        """Give a place up, unless that is done or it has lapsed."""
        self._held.pop(admission, None)

    def held(self) -> tuple[Admission, ...]:
        """Return the places that have not lapsed, the oldest first."""
        now = time.monotonic()
        for admission in tuple(self._held):
            if admission.until > now:
                break
            del self._held[admission]
        return tuple(self._held)

    def learn(self, seconds: float) -> None:
        """Take a job's length into the mean."""
        weight = _WEIGHT if self._known else 1.0
        self.expected += weight * (seconds - self.expected)
        self._known = True

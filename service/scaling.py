"""How many replicas the audio that waits asks for.

Ray Serve's controller imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

QUEUED_SECONDS = "queued_audio_seconds"
"""The name of what replicas report: seconds of audio that wait or are computed."""


class QueuedSecondsPolicy:
    """As many replicas as the queued audio asks for; a request may be a second or an hour of it.

    Parameters
    ----------
    queued_seconds
        Seconds of audio in the queue of each replica, at most.
    """

    def __init__(self, queued_seconds: float) -> None:
        self.queued_seconds = queued_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas, within the bounds, and no state."""
        queued = sum((context.aggregated_metrics or {}).get(QUEUED_SECONDS, {}).values())
        wanted = math.ceil(queued / self.queued_seconds)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}

"""The autoscaling policy: replicas in proportion to the queued audio.

Ray Serve's controller imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

QUEUED_SECONDS = "queued_audio_seconds"
"""The name of the metric that replicas report: seconds of audio queued or being computed."""


class QueuedSecondsPolicy:
    """As many replicas as the queued audio needs; requests differ from a second to an hour.

    Parameters
    ----------
    queued_seconds
        Target for the seconds of audio queued per replica.
    """

    def __init__(self, queued_seconds: float) -> None:
        self.queued_seconds = queued_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas, within the bounds, and no state."""
        queued = sum((context.aggregated_metrics or {}).get(QUEUED_SECONDS, {}).values())
        wanted = math.ceil(queued / self.queued_seconds)
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}

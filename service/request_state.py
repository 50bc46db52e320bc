"""What middleware, routes and error answers share about one HTTP request."""

from __future__ import annotations

import dataclasses

from starlette.types import Scope

from snac_core.codec import Codec


@dataclasses.dataclass
class RequestState:
    """Facts about a request that become response headers, metric labels and log fields."""

    request_id: str = ""
    outcome: str = "ok"
    """``ok``, or the name of the problem that it was answered with."""
    caller: str | None = None
    """Who is counted against rate limits: a key's name, or an address."""
    model: Codec | None = None
    timings: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds by stage; a batch adds up those of its items."""

    @classmethod
    def of(cls, scope: Scope) -> RequestState:
        """Return the state of the request with this ASGI scope."""
        state: RequestState = scope.setdefault("state", {}).setdefault("request", cls())
        return state

    def add_time(self, stage: str, seconds: float) -> None:
        """Add ``seconds`` to a stage."""
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds

"""From start to stop: what the probes answer, and why.

The port is opened first and the model loaded behind it, so that probes are answered from the
beginning. Three of them ask different things: *startup* whether loading has ended, *ready*
whether a request sent now would be answered, *live* whether only a restart would help.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

import structlog

from service.errors import NotReadyError

REFUSED = (1, 2)
"""Exit codes of a service that could not start."""

ENGINE_DEAD = 3
"""Exit code of a worker whose engine has ended."""


log = structlog.get_logger(__name__)


@dataclasses.dataclass
class Lifecycle:
    """Where the service stands.

    ``step`` says what loading is at; ``failure`` why it ended without a model.
    """

    step: str = "not started"
    failure: Exception | None = None
    started: bool = False
    stopping: bool = False
    _begun: float = dataclasses.field(default_factory=time.monotonic)
    _thread: threading.Thread | None = None

    def start(self, load: Callable[[], None]) -> None:
        """Run ``load`` in a thread of its own; once only."""
        if self._thread is None:
            self._begun = time.monotonic()
            self._thread = threading.Thread(
                target=self._run, args=(load,), name="snac-load", daemon=True
            )
            self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait for loading to end, or for ``timeout`` seconds: a download may hang."""
        if self._thread is not None:
            self._thread.join(timeout)

    def check_started(self) -> None:
        """Raise NotReadyError, saying how far loading has come, until it has ended well."""
        if self.failure is not None:
            raise NotReadyError(f"the service could not start: {self.failure}")
        if not self.started:
            seconds = time.monotonic() - self._begun
            raise NotReadyError(
                f"the service is starting: {self.step} ({seconds:.0f} s so far)",
                {"Retry-After": "1"},
            )

    def check_ready(self) -> None:
        """Raise NotReadyError unless loading has ended and stopping has not begun."""
        if self.stopping:
            raise NotReadyError("the service is stopping")
        self.check_started()

    def _run(self, load: Callable[[], None]) -> None:
        try:
            load()
        except Exception as error:  # noqa: BLE001 - the probes and the command say it
            self.failure = error
            log.error("the service could not start", reason=str(error))
        else:
            self.started = True

"""The life cycle from start to stop, which the health probes report.

The port opens before the model is loaded, so that probes are answered from the beginning. There
are three: *startup* succeeds once loading is done, *ready* while requests are answered, and *live*
fails when only a restart helps.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

import structlog

from service.errors import NotReadyError

REFUSED = (1, 2)
"""Exit codes of a service that failed to start."""

ENGINE_DEAD = 3
"""Exit code of a worker whose engine has ended."""


log = structlog.get_logger(__name__)


@dataclasses.dataclass
class Lifecycle:
    """The state of the service.

    ``step`` describes the loading step; ``failure`` is why loading failed.
    """

    step: str = "not started"
    failure: Exception | None = None
    started: bool = False
    stopping: bool = False
    _begun: float = dataclasses.field(default_factory=time.monotonic)
    _thread: threading.Thread | None = None

    def start(self, load: Callable[[], None]) -> None:
        """Run ``load`` in a separate thread; only once."""
        if self._thread is None:
            self._begun = time.monotonic()
            self._thread = threading.Thread(
                target=self._run, args=(load,), name="snac-load", daemon=True
            )
            self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait for loading to end, at most ``timeout`` seconds: a download may hang."""
        if self._thread is not None:
            self._thread.join(timeout)

    def check_started(self) -> None:
        """Raise NotReadyError with the loading step unless loading has succeeded."""
        if self.failure is not None:
            raise NotReadyError(f"the service could not start: {self.failure}")
        if not self.started:
            seconds = time.monotonic() - self._begun
            raise NotReadyError(
                f"the service is starting: {self.step} ({seconds:.0f} s so far)",
                {"Retry-After": "1"},
            )

    def check_ready(self) -> None:
        """Raise NotReadyError unless loading has succeeded and stopping has not begun."""
        if self.stopping:
            raise NotReadyError("the service is stopping")
        self.check_started()

    def _run(self, load: Callable[[], None]) -> None:
        try:
            load()
        except Exception as error:  # noqa: BLE001 - the probes and the command report it
            self.failure = error
            log.error("the service could not start", reason=str(error))
        else:
            self.started = True

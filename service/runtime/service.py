"""The parts of one running app."""

from __future__ import annotations

import torch

from service.engine.engine import Engine
from service.engine.io_pool import IoPool
from service.limits.guesses import KeyGuesses
from service.limits.memory import MemoryBudget
from service.limits.rates import RateLimits
from service.models.manager import ModelManager
from service.observability.metrics import Metrics
from service.observability.tracing import NoTracing, Tracing
from service.runtime.lifecycle import Lifecycle
from service.runtime.peers import Worker
from service.runtime.streams import Streams
from service.settings import Settings
from snac_core.inference.networks import CUDA_BATCH_SECONDS

CPU_BATCH_SECONDS = 8.0
"""One window of a long file or a few short clips, so that no batch takes long on a CPU."""


class Service:
    """Settings, metrics, models, limits, engine, streams and I/O threads of one app."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.lifecycle = Lifecycle()
        self.models = ModelManager(settings, self.metrics)
        self.rates = RateLimits(settings)
        self.guesses = KeyGuesses(settings.key_guesses)
        self.memory = MemoryBudget(settings.held_bytes, self.metrics, settings.caller_share)
        self.tracing: Tracing = NoTracing()
        self.worker: Worker | None = None
        on_gpu = torch.cuda.is_available() if settings.device is None else "cuda" in settings.device
        self.engine = Engine(
            settings.batch_seconds or (CUDA_BATCH_SECONDS if on_gpu else CPU_BATCH_SECONDS),
            settings.max_queue_seconds,
            self.metrics,
            settings.turn_seconds,
            settings.caller_share,
        )
        self._begun = False
        self.streams = Streams(settings, self.engine, self.rates, self.metrics)
        self.io = IoPool(settings.io_threads, self.metrics)

    def start(self) -> None:
        """Start the engine, and load and warm up the first model; repeated calls do nothing."""
        if not self._begun:
            self._begun = True
            self.engine.start()
            self.lifecycle.start(self._load)

    def _load(self) -> None:
        def on_progress(step: str) -> None:
            self.lifecycle.step = step

        self.models.load_first(on_progress)

    def close(self) -> None:
        """Stop the engine and the threads; waiting requests get an error."""
        self.lifecycle.stopping = True
        self.engine.close()
        self.models.close()
        self.io.close()
        self.lifecycle.join(self.settings.drain_timeout)
        self.tracing.close()

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        running = self.lifecycle.started and not self.lifecycle.stopping
        return running and self.engine.alive and self.models.loaded

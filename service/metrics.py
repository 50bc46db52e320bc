"""What the service counts, under the names of its own domain."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
_AUDIO_SECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "snac_requests",
            "Requests answered, by route and by outcome: ok, or the problem's name.",
            ["route", "outcome"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "snac_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "snac_queue_seconds",
            "Time a job waited before the engine first touched it.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_audio_seconds = Gauge(
            "snac_queue_audio_seconds",
            "Audio-seconds waiting for the engine or in it.",
            registry=self.registry,
        )
        self.batch_audio_seconds = Histogram(
            "snac_batch_audio_seconds",
            "Audio-seconds in one engine batch.",
            ["kind"],
            buckets=_AUDIO_SECONDS,
            registry=self.registry,
        )
        self.batch_items = Histogram(
            "snac_batch_items",
            "Windows in one engine batch.",
            ["kind"],
            buckets=_ITEMS,
            registry=self.registry,
        )
        self.inference_seconds = Histogram(
            "snac_inference_seconds",
            "Time the engine took for one batch.",
            ["kind"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.engine_failures = Counter(
            "snac_engine_failures",
            "Engine batches that were split and tried again, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self.model_info = Gauge(
            "snac_model_info",
            "1 for the model being served.",
            ["version", "token_space"],
            registry=self.registry,
        )
        self.reloads = Counter(
            "snac_reload",
            "Attempts to serve another version, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("succeeded", "failed"):
            self.reloads.labels(outcome=outcome)

    def serving(self, version: str, token_space: str) -> None:
        """Name the model being served, and only that one."""
        self.model_info.clear()
        self.model_info.labels(version=version, token_space=token_space).set(1)

    def exposition(self) -> bytes:
        """Return everything in Prometheus text format."""
        return generate_latest(self.registry)

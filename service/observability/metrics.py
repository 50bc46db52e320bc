"""What the service counts, under the names of its own domain."""

from __future__ import annotations

import functools

import torch
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
        self.held_bytes = Gauge(
            "snac_held_bytes",
            "Bytes of bodies that are not answered yet, and of answers that are not taken yet.",
            registry=self.registry,
        )
        self.io_jobs = Gauge(
            "snac_io_jobs",
            "Bodies to be read and answers to be written that have a thread or wait for one.",
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "snac_stage_seconds",
            "Time in a stage outside the engine: read and resample, write, measure quality.",
            ["stage"],
            buckets=_SECONDS,
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
        self.audio_seconds = Counter(
            "snac_audio_seconds",
            "Audio-seconds computed, context of windows included.",
            ["kind"],
            registry=self.registry,
        )
        self.real_time_factor = Gauge(
            "snac_real_time_factor",
            "Audio-seconds computed in a second of engine time, over the last batches.",
            registry=self.registry,
        )
        self.device_memory = Gauge(
            "snac_device_memory_bytes",
            "Memory that tensors hold on the device, and that is kept for them; 0 on a CPU.",
            ["state"],
            registry=self.registry,
        )
        self.engine_failures = Counter(
            "snac_engine_failures",
            "Engine batches that were split and tried again, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self.streams_open = Gauge(
            "snac_streams_open",
            "Streams that are open.",
            ["kind"],
            registry=self.registry,
        )
        self.streams = Counter(
            "snac_streams",
            "Streams that ended or were refused, by outcome: ok, or the problem's name.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.stream_audio_seconds = Counter(
            "snac_stream_audio_seconds",
            "Audio-seconds that streams have answered, as audio or as codes.",
            ["kind"],
            registry=self.registry,
        )
        self.stream_first_seconds = Histogram(
            "snac_stream_first_seconds",
            "Time from a stream's first tokens or audio to the first of its answer.",
            ["kind"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stream_held_seconds = Gauge(
            "snac_stream_held_seconds",
            "Audio-seconds that streams hold: come in, and their answer not gone out.",
            registry=self.registry,
        )
        for kind in ("decode", "encode", "decode-http"):
            self.streams_open.labels(kind=kind)
        self.model_info = Gauge(
            "snac_model_info",
            "1 for the model being served.",
            ["version", "token_space"],
            registry=self.registry,
        )
        self.model_requests = Counter(
            "snac_model_requests",
            "Requests that a version had part in, by outcome.",
            ["version", "outcome"],
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

    def serving(self, version: str, token_space: str, device: torch.device) -> None:
        """Name the model being served, and only that one, and watch its device."""
        for state, used in (
            ("allocated", torch.cuda.memory_allocated),
            ("reserved", torch.cuda.memory_reserved),
        ):
            on_gpu = device.type == "cuda"
            self.device_memory.labels(state=state).set_function(
                functools.partial(used, device) if on_gpu else _none
            )
        self.model_info.clear()
        self.model_info.labels(version=version, token_space=token_space).set(1)

    def answered(self, route: str, outcome: str, version: str | None, seconds: float) -> None:
        """Count a request, and for the version that answered it if one did."""
        self.requests.labels(route=route, outcome=outcome).inc()
        self.request_seconds.labels(route=route).observe(seconds)
        if version is not None:
            self.model_requests.labels(version=version, outcome=outcome).inc()

    def render(self) -> bytes:
        """Return everything in Prometheus text format."""
        return generate_latest(self.registry)


def _none() -> float:
    return 0.0

"""The Prometheus metrics of the service."""

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
from prometheus_client.exposition import choose_encoder

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
_AUDIO_SECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        seconds = functools.partial(histogram, buckets=_SECONDS)
        self.requests = counter(
            "snac_requests",
            "Requests answered, by route and outcome: ok, or the problem's name.",
            ["route", "outcome"],
        )
        self.connections_refused = counter(
            "snac_connections_refused",
            "Connections ended before a request was understood, by reason.",
            ["reason"],
        )
        self.request_seconds = seconds(
            "snac_request_seconds",
            "Time from a request's headers to the end of its response.",
            ["route"],
        )
        self.queue_seconds = seconds(
            "snac_queue_seconds", "Time a job waited in the queue before its first batch."
        )
        self.queue_audio_seconds = gauge(
            "snac_queue_audio_seconds", "Audio-seconds waiting or running."
        )
        self.held_bytes = gauge(
            "snac_held_bytes",
            "Memory held by requests without a response and by responses not received yet.",
        )
        self.io_jobs = gauge(
            "snac_io_jobs",
            "I/O jobs (reading bodies, writing responses) running or waiting for a thread.",
        )
        self.stage_seconds = seconds(
            "snac_stage_seconds",
            "Time in a stage outside the engine: read (and resample), write, quality.",
            ["stage"],
        )
        self.batch_audio_seconds = histogram(
            "snac_batch_audio_seconds",
            "Audio-seconds in one engine batch.",
            ["kind"],
            buckets=_AUDIO_SECONDS,
        )
        self.batch_items = histogram(
            "snac_batch_items", "Windows in one engine batch.", ["kind"], buckets=_ITEMS
        )
        self.inference_seconds = seconds(
            "snac_inference_seconds", "Engine time for one batch.", ["kind"]
        )
        self.audio_seconds = counter(
            "snac_audio_seconds",
            "Audio-seconds computed, including the context of windows.",
            ["kind"],
        )
        self.real_time_factor = gauge(
            "snac_real_time_factor",
            "Audio-seconds computed per second of engine time, a moving average over batches.",
        )
        self.device_memory = gauge(
            "snac_device_memory_bytes",
            "Device memory allocated to tensors and reserved for them; 0 on a CPU.",
            ["state"],
        )
        self.engine_failures = counter(
            "snac_engine_failures",
            "Engine batches that were split and retried, by cause.",
            ["cause"],
        )
        self.streams_open = gauge("snac_streams_open", "Open streams.", ["kind"])
        self.streams = counter(
            "snac_streams",
            "Streams that ended or were refused, by outcome: ok, or the problem's name.",
            ["kind", "outcome"],
        )
        self.stream_audio_seconds = counter(
            "snac_stream_audio_seconds",
            "Audio-seconds that streams have sent, as audio or as codes.",
            ["kind"],
        )
        self.stream_first_seconds = seconds(
            "snac_stream_first_seconds",
            "Time from a stream's first input to its first output.",
            ["kind"],
        )
        self.stream_held_seconds = gauge(
            "snac_stream_held_seconds",
            "Audio-seconds buffered by streams: received, and the result not sent.",
        )
        for kind in ("decode", "encode", "decode-http"):
            self.streams_open.labels(kind=kind)
        self.model_info = gauge(
            "snac_model_info", "1 for the model being served.", ["version", "token_space"]
        )
        self.model_requests = counter(
            "snac_model_requests",
            "Requests that used a model version, by outcome.",
            ["version", "outcome"],
        )
        self.store_age = gauge(
            "snac_store_age_seconds",
            "Seconds since the model store was last read; it grows while the store hangs.",
        )
        self.reloads = counter(
            "snac_reload", "Attempts to load another version, by outcome.", ["outcome"]
        )
        for outcome in ("succeeded", "failed"):
            self.reloads.labels(outcome=outcome)

    def serving(self, version: str, token_space: str, device: torch.device) -> None:
        """Report the model being served, and the memory of its device."""
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

    def answered(
        self,
        route: str,
        outcome: str,
        version: str | None,
        seconds: float,
        trace_id: str | None = None,
    ) -> None:
        """Count a request, also for the model version that it used, if any.

        A recorded trace becomes the exemplar of the request's duration.
        """
        self.requests.labels(route=route, outcome=outcome).inc()
        exemplar = {"trace_id": trace_id} if trace_id else None
        self.request_seconds.labels(route=route).observe(seconds, exemplar)
        if version is not None:
            self.model_requests.labels(version=version, outcome=outcome).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self.registry)

    def negotiated(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their media type: OpenMetrics, with exemplars, if accepted."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


def _none() -> float:
    return 0.0

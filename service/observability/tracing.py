"""Traces for an OpenTelemetry collector; OpenTelemetry is imported only if one is configured.

Each request is a span, a child of the caller's if ``traceparent`` was sent. It has a child span
for each stage: read, queue, inference, write.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from fastapi import FastAPI

from service.errors import ServiceError
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_UNTRACED = "health/.*,metrics"


class Tracing(Protocol):
    """Receives the stages of requests."""

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Record a stage of the current request; ``started`` is in nanoseconds since 1970."""

    def close(self) -> None:
        """Send pending spans."""


class NoTracing:
    """Records nothing."""

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Collector:
    """Sends spans to an OTLP/HTTP collector, in batches and from a separate thread."""

    def __init__(self, app: FastAPI, provider: TracerProvider) -> None:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        self._provider = provider
        self._tracer = provider.get_tracer("snac-service", version("snac-tokenizer"))
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=provider,
            excluded_urls=_UNTRACED,
            exclude_spans=["receive", "send"],
        )

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Add a finished span."""
        span = self._tracer.start_span(name, start_time=started, attributes=attributes)
        span.end(started + round(1e9 * seconds))

    def close(self) -> None:
        """Send pending spans and end the thread."""
        self._provider.shutdown()


def tracing(app: FastAPI, settings: Settings) -> Tracing:
    """Return the tracing of ``app``.

    Raises
    ------
    ServiceError
        If a collector is configured and the extra ``tracing`` is not installed.
    """
    if settings.otlp_endpoint is None:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ServiceError(
            "SNAC_OTLP_ENDPOINT needs the extra 'tracing': pip install 'snac-tokenizer[tracing]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "snac-service"}))
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=5)))
    return Collector(app, provider)


def now() -> int:
    """Return the time in nanoseconds since 1970, as spans need it."""
    return time.time_ns()

"""Traces for an OpenTelemetry collector, if one is named; without one nothing is imported.

Each request is a span, child of the caller's if it sent ``traceparent``, with a span in it for
each stage: read, queue, inference, write.
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
    """Where the stages of requests are told."""

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Tell of a stage that began at ``started``, in ns since 1970, in the current request."""

    def close(self) -> None:
        """Send what has not been sent."""


class NoTracing:
    """Tells nobody."""

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Collector:
    """Sends spans to an OTLP/HTTP collector from a thread of its own, many at a time."""

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
        """Add a span that is over already."""
        span = self._tracer.start_span(name, start_time=started, attributes=attributes)
        span.end(started + round(1e9 * seconds))

    def close(self) -> None:
        """Send what is left, and end the thread."""
        self._provider.shutdown()


def tracing(app: FastAPI, settings: Settings) -> Tracing:
    """Return where ``app`` tells its spans.

    Raises
    ------
    ServiceError
        If a collector is named and the extra ``tracing`` is not installed.
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
    """Return the time as spans have it: nanoseconds since 1970."""
    return time.time_ns()

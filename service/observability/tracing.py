"""Traces for an OpenTelemetry collector; OpenTelemetry is imported only if one is configured.

Each request is a span, a child of the caller's if ``traceparent`` was sent. It has a child span
for each stage: read, queue, inference, write. OpenTelemetry's own variables count: an endpoint,
headers, a sampler, a name of the service.
"""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from fastapi import FastAPI

from service.errors import ServiceError
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_UNTRACED = "health/.*,metrics"

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Either names a collector where ``SNAC_OTLP_ENDPOINT`` does not."""


class Tracing(Protocol):
    """Receives the stages of requests."""

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Record a stage of the current request; ``started`` is in nanoseconds since 1970."""

    def trace_id(self) -> str | None:
        """Return the trace of the current request in hexadecimal; None if it is not recorded."""

    def close(self) -> None:
        """Send pending spans."""


class NoTracing:
    """Records nothing."""

    def stage(self, name: str, started: int, seconds: float, **attributes: str | float) -> None:
        """Do nothing."""

    def trace_id(self) -> str | None:
        """Return None."""
        return None

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

    def trace_id(self) -> str | None:
        """Return the current request's trace, if it is sampled."""
        from opentelemetry.trace import format_trace_id, get_current_span

        context = get_current_span().get_span_context()
        return format_trace_id(context.trace_id) if context.trace_flags.sampled else None

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
    named = settings.otlp_endpoint is not None or any(map(os.environ.get, _ENDPOINTS))
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ServiceError(
            "SNAC_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_ENDPOINT need the extra 'tracing': "
            "pip install 'snac-tokenizer[tracing]'"
        ) from error
    # What is given here goes before the environment, so it is given only where that says nothing.
    resource = Resource.create() if _named() else Resource.create({"service.name": "snac-service"})
    provider = TracerProvider(resource=resource)
    endpoint = settings.otlp_endpoint
    exporter = OTLPSpanExporter(
        None if endpoint is None else endpoint.rstrip("/") + "/v1/traces",
        timeout=None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else 5,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Collector(app, provider)


def _named() -> bool:
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in attributes


def now() -> int:
    """Return the time in nanoseconds since 1970, as spans need it."""
    return time.time_ns()

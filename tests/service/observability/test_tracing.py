"""Traces, as a collector receives them."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any, NoReturn

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.api import request_context

trace = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps the spans that are posted to it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = trace.ExportTraceServiceRequest.FromString(body)
        self.server.posts.append((self.path, request))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


OPEN_METRICS = "application/openmetrics-text;version=1.0.0"

merged = structlog.contextvars.merge_contextvars


def keep(logged: list[MutableMapping[str, Any]], entry: MutableMapping[str, Any]) -> NoReturn:
    logged.append(entry)
    raise structlog.DropEvent


@pytest.fixture
def wav(samples_of: Any, wav_of: Any) -> bytes:
    sound: bytes = wav_of(samples_of(0.2))
    return sound


@pytest.fixture
def collector() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.posts = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def test_a_request_is_a_span_with_its_stages_in_it(
    collector: Any, serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    with serve(model=model_ref, device="cpu", otlp_endpoint=endpoint) as running:
        answer = running.http.post(
            "/v1/encode",
            content=wav_of(samples_of(0.5)),
            headers={"traceparent": f"00-{TRACE_ID}-{PARENT}-01"},
        )
        assert answer.status_code == 200
        running.http.get("/health/ready")
    # Closing the service has sent what was left.
    assert {path for path, _ in collector.posts} == {"/v1/traces"}
    resources = [one for _, request in collector.posts for one in request.resource_spans]
    names = {a.value.string_value for r in resources for a in r.resource.attributes}
    assert "snac-service" in names
    spans = [span for r in resources for scope in r.scope_spans for span in scope.spans]
    assert not [span for span in spans if "health" in span.name]
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"POST /v1/encode", "read", "queue", "inference", "write"}
    whole = by_name.pop("POST /v1/encode")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE_ID, PARENT)
    for span in by_name.values():
        assert span.trace_id == whole.trace_id
        assert span.parent_span_id == whole.span_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    starts = [by_name[n].start_time_unix_nano for n in ("read", "queue", "inference", "write")]
    assert starts == sorted(starts)
    attributes = {a.key: a.value for a in by_name["inference"].attributes}
    assert attributes["snac.kind"].string_value == "encode"
    assert attributes["snac.audio_seconds"].double_value >= 0.5


def test_opentelemetrys_variables_count_and_a_trace_ties_logs_and_metrics_to_a_request(
    collector: Any, serve: Any, model_ref: str, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "codec")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    logged: list[MutableMapping[str, Any]] = []
    log = structlog.wrap_logger(
        None,
        [merged, lambda logger, method, entry: keep(logged, entry)],
        wrapper_class=structlog.BoundLogger,
    )
    monkeypatch.setattr(request_context, "log", log)
    with serve(model=model_ref, device="cpu") as running:
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01"}
        assert running.http.post("/v1/encode", content=wav, headers=headers).status_code == 200
        scrape = running.http.get("/metrics", headers={"Accept": OPEN_METRICS})
        plain = running.http.get("/metrics")
    resources = [one for _, request in collector.posts for one in request.resource_spans]
    names = {a.key: a.value.string_value for r in resources for a in r.resource.attributes}
    assert names["service.name"] == "codec"
    assert names["deployment.environment"] == "test"
    samples = [
        sample
        for family in text_string_to_metric_families(scrape.text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.name == "snac_request_seconds_bucket"
        and sample.labels["route"] == "/v1/encode"
        and sample.exemplar is not None
    ]
    assert [sample.exemplar.labels for sample in samples if sample.exemplar] == [
        {"trace_id": TRACE_ID}
    ]
    assert TRACE_ID not in plain.text
    assert [one["trace_id"] for one in logged if one.get("path") == "/v1/encode"] == [TRACE_ID]


def test_a_sampler_and_the_switch_of_the_environment_count(
    collector: Any, serve: Any, model_ref: str, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    for name, value in (("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with serve(model=model_ref, device="cpu", otlp_endpoint=endpoint) as running:
                assert running.http.post("/v1/encode", content=wav).status_code == 200
    assert collector.posts == []


def test_a_collector_that_is_away_does_not_matter(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu", otlp_endpoint="http://127.0.0.1:9") as running:
        wav = wav_of(samples_of(0.2))
        assert running.http.post("/v1/encode", content=wav).status_code == 200

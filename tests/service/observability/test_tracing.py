"""Traces, as a collector receives them."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

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


def test_a_collector_that_is_away_does_not_matter(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu", otlp_endpoint="http://127.0.0.1:9") as running:
        wav = wav_of(samples_of(0.2))
        assert running.http.post("/v1/encode", content=wav).status_code == 200

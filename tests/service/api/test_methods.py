"""HEAD, OPTIONS, HTTP/1.0, names that a call does not know, and keys as other servers take them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from snac_core.types import Samples
from tests.service.conftest import Running, Serve

KEY, ADMIN, ORIGIN = "a key of eight", "an operator's", "https://page.example"


@pytest.fixture(scope="module")
def guarded(serve: Serve, model_ref: str) -> Iterator[Running]:
    """A server with keys, which pages of one origin may call."""
    with serve(
        model=model_ref, device="cpu", api_key=KEY, admin_key=ADMIN, cors_origins=ORIGIN
    ) as running:
        yield running


@pytest.fixture
def wav(samples_of: Callable[..., Samples], wav_of: Callable[..., bytes]) -> bytes:
    return wav_of(samples_of(0.3))


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json"])
def test_head_is_get_without_a_body(running: Running, path: str) -> None:
    answer = running.http.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-type"] == running.http.get(path).headers["content-type"]


def test_options_names_the_methods(running: Running) -> None:
    answer = running.http.options("/v1/encode")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == "OPTIONS, POST"
    assert running.http.options("/health/live").headers["allow"] == "GET, HEAD, OPTIONS"
    assert running.http.options("/v1/nothing").status_code == 404
    assert running.http.delete("/v1/encode").status_code == 405


def test_a_preflight_allows_every_header_that_the_pages_name(guarded: Running) -> None:
    named = "authorization, content-type, traceparent, x-admin-key, x-api-key, x-request-timeout"
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": named,
    }
    answer = guarded.http.options("/v1/encode", headers=asked)
    assert answer.status_code == 200
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert set(named.split(", ")) <= set(allowed)


def test_http_1_0_gets_a_length_and_no_chunks(running: Running, wav: bytes) -> None:
    codes = running.http.post("/v1/encode", content=wav).content
    head = (
        "POST /v1/decode?stream=true HTTP/1.0\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(codes)}\r\n\r\n"
    )
    port = int(running.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head.encode() + codes)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head_bytes.lower()
    assert f"content-length: {len(body)}".encode() in head_bytes.lower()
    expected = running.http.post("/v1/decode?stream=true", content=codes)
    assert body == expected.content


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("/v1/encode?layouts=orpheus", "'layouts': did you mean 'layout'?"),
        ("/v1/decode?formats=flac", "'formats': did you mean 'format'?"),
        ("/v1/reconstruct?pitch=2", "'pitch': it takes channel, format, noise, seed"),
        ("/v1/decode/batch?formt=flac", "'formt': did you mean 'format'?"),
        ("/v1/models/rollback?x=1", "no query parameter 'x'"),
    ],
)
def test_an_unknown_query_parameter_is_refused_with_the_nearest(
    running: Running, wav: bytes, call: str, said: str
) -> None:
    answer = running.http.post(call, content=wav)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_bearer_token_is_the_same_key(guarded: Running, wav: bytes) -> None:
    def status(**headers: str) -> int:
        return guarded.http.post("/v1/encode", content=wav, headers=headers).status_code

    assert status(Authorization=f"Bearer {KEY}") == 200
    assert status(Authorization=f"bearer {KEY}") == 200
    assert status(Authorization="Bearer another key") == 401
    assert status(Authorization=f"Basic {KEY}") == 401
    url = guarded.url.replace("http", "ws") + "/v1/stream/encode"
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as stream:
        stream.send(json.dumps({"type": "start", "sample_rate": 24000}))
        assert json.loads(stream.recv())["type"] == "ready"


def test_openapi_tells_the_kinds_of_keys_apart(guarded: Running) -> None:
    page: dict[str, Any] = guarded.http.get("/openapi.json").json()
    assert set(page["components"]["securitySchemes"]) == {"ApiKey", "Bearer", "AdminKey"}
    assert page["paths"]["/v1/encode"]["post"]["security"] == [{"ApiKey": []}, {"Bearer": []}]
    assert page["paths"]["/v1/models/reload"]["post"]["security"] == [{"AdminKey": []}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_json_may_begin_with_a_byte_order_mark(running: Running, wav: bytes, encoding: str) -> None:
    codes = running.http.post("/v1/encode", content=wav).text
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    body = (mark + codes).encode(encoding)
    headers = {"Content-Type": "application/json"}
    answer = running.http.post("/v1/decode", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.content == running.http.post("/v1/decode", content=codes).content


def test_a_batch_of_one_is_taken_as_tolist_gives_it(running: Running, wav: bytes) -> None:
    def audio(codes: object, layout: str) -> bytes:
        answer = running.http.post("/v1/decode", json={"codes": codes, "layout": layout})
        assert answer.status_code == 200, answer.text
        return answer.content

    for layout in ("hierarchical", "mini-omni", "flat", "orpheus"):
        url = f"/v1/encode?layout={layout}"
        codes = running.http.post(url, content=wav).json()["codes"]
        expected = audio(codes, layout)
        assert audio([codes], layout) == expected
        if layout == "hierarchical":
            assert audio([[level] for level in codes], layout) == expected


@pytest.mark.parametrize("dtype", ["<i4", "<i8"])
def test_raw_levels_of_wider_numbers_are_refused(running: Running, wav: bytes, dtype: str) -> None:
    codes = running.http.post("/v1/encode", content=wav).json()["codes"]

    def answer(kind: str) -> httpx.Response:
        raw = [np.array(level).astype(kind).tobytes() for level in codes]
        return running.http.post(
            "/v1/decode",
            content=msgpack.packb({"codes": raw}),
            headers={"Content-Type": "application/msgpack"},
        )

    assert answer("<u2").status_code == 200
    refused = answer(dtype)
    assert refused.status_code == 422
    assert "uint16" in refused.json()["detail"]

"""What other programs send: curl's and Java's upgrade to HTTP/2."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snac_core.types import Samples
from tests.service.conftest import Running


@pytest.fixture
def wav(samples_of: Callable[..., Samples], wav_of: Callable[..., bytes]) -> bytes:
    return wav_of(samples_of(0.3))


def curl(*arguments: str) -> Any:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, timeout=300)
    return json.loads(done.stdout)


def test_curl_that_asks_for_http_2_is_answered_as_if_it_had_not(
    running: Running, wav: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "voice.wav"
    file.write_bytes(wav)
    expected = running.http.post("/v1/encode", content=wav).json()
    url = f"{running.url}/v1/encode"
    assert curl("--http2", "--data-binary", f"@{file}", url) == expected
    assert curl("--http2", "-F", f"file=@{file}", url) == expected


@pytest.mark.parametrize("length", [None, 300_000])
def test_an_upgrade_nobody_speaks_loses_nothing_of_the_connection(
    running: Running, wav: bytes, length: int | None
) -> None:
    """Bodies with a length or in chunks, and the request behind them."""
    body = wav + bytes((length or len(wav)) - len(wav))
    framing, sent = f"Content-Length: {len(body)}", body
    if length is None:
        framing, sent = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = (
        "POST /v1/encode HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n{framing}\r\n\r\n"
    )
    behind = (
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n"
        b"Connection: close, Upgrade\r\n\r\n"
    )
    port = int(running.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=300) as client:
        client.sendall(head.encode() + sent + behind)
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    statuses = [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200"]
    assert b'{"status":"alive"' in answers

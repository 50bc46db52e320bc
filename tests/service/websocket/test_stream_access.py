"""Keys, origins, URLs, shutdown and pings of streams."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from snac_core.codec import Codec
from tests.support.streams import (
    END,
    FLAT,
    KEY,
    audio_of,
    connect,
    hear,
    refusal,
    tokens_of,
    ws,
)

CODED_KEY = Subprotocol("snac.key." + base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="))


def test_keys_are_asked_for(strict: Any) -> None:
    for how in (
        {},
        {"additional_headers": {"X-Api-Key": "a key of the mouse"}},
        {"subprotocols": ["snac", "snac.key.YSBrZXkgb2YgdGhlIG1vdXNl"]},
        {"subprotocols": ["snac", "snac.key.%%%"]},
    ):
        status, problem, headers = refusal(strict, **how)
        assert (status, problem["type"]) == (401, "urn:snac:problem:unauthorized")
        assert headers["WWW-Authenticate"] == "ApiKey"
    with connect(ws(strict), subprotocols=[Subprotocol("snac"), CODED_KEY]) as stream:
        assert stream.subprotocol == "snac"
        assert json.loads(stream.recv(300))["type"] == "ready"


def test_pages_of_other_sites_may_not_stream(running: Any, serve: Any, model_ref: str) -> None:
    status, problem, _ = refusal(running, origin="https://evil.test")
    assert (status, problem["type"]) == (403, "urn:snac:problem:forbidden")
    with connect(ws(running), origin=running.url) as stream:
        assert json.loads(stream.recv(300))["type"] == "ready"
    with (
        serve(model=model_ref, device="cpu", cors_origins=("https://app.test",)) as admitting,
        connect(ws(admitting), origin=Origin("https://app.test")) as stream,
    ):
        assert json.loads(stream.recv(300))["type"] == "ready"


def test_an_impossible_url_is_refused_before_it_is_opened(running: Any) -> None:
    for query, status, name in (
        ("?layout=oggle", 422, "invalid-layout"),
        ("?seed=x", 422, "invalid-request"),
        ("?token_space=another", 409, "token-space"),
    ):
        with (
            pytest.raises(InvalidStatus) as raised,
            connect(ws(running, f"/v1/stream/decode{query}")),
        ):
            pass
        assert raised.value.response.status_code == status
        problem = json.loads(raised.value.response.body)
        assert problem["type"] == f"urn:snac:problem:{name}"


def test_sigterm_lets_streams_end_then_ends_them_and_no_key_is_logged(
    model_ref: str, codec: Codec
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "--port", "0", "--model", model_ref],
        env={
            **os.environ,
            "SNAC_API_KEY": KEY,
            "SNAC_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "SNAC_DRAIN_DELAY": "0",
            "SNAC_DRAIN_TIMEOUT": "6",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        url = next(
            entry["url"] for line in process.stderr if (entry := json.loads(line)).get("url")
        ).replace("http", "ws")
        path = f"/v1/stream/decode{FLAT}"
        with pytest.raises(InvalidStatus, match="401"), connect(url + path):
            pass
        tokens = tokens_of(codec, 4)
        with (
            connect(url + path, subprotocols=[Subprotocol("snac"), CODED_KEY]) as short,
            connect(url + path, additional_headers={"X-Api-Key": KEY}) as endless,
        ):
            short.recv(300)
            endless.recv(300)
            process.send_signal(signal.SIGTERM)
            logged = []
            for line in process.stderr:
                logged.append(line)
                if json.loads(line)["event"] == "stopping":
                    break
            short.send(tokens.tobytes())
            short.send(END)
            data, said, code = hear(short)
            assert (said[-1]["type"], code) == ("done", 1000)
            assert np.abs(np.frombuffer(data, "<f4") - audio_of(codec, tokens)).max() <= 1e-5
            _, said, code = hear(endless)
            assert said[-1]["problem"]["type"] == "urn:snac:problem:not-ready"
            assert code == 1012
        assert process.wait(60) == 0
        logged += process.stderr
        entries = [json.loads(line) for line in logged]
        outcomes = [entry["outcome"] for entry in entries if entry["event"] == "stream"]
        assert sorted(outcomes) == ["not-ready", "ok", "unauthorized"]
        assert not [entry for entry in entries if entry["level"] == "error"]
        assert not any(KEY in line or CODED_KEY in line for line in logged)
    finally:
        process.kill()
        process.communicate()


def test_who_pings_and_never_reads_is_cut(running: Any) -> None:
    """Far more answers than the systems hold."""
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(300)
        host, port = running.url.removeprefix("http://").split(":")
        raw.connect((host, int(port)))
        raw.sendall(
            f"GET /v1/stream/decode{FLAT} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert raw.recv(12).endswith(b"101")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            raw.sendall(200_000 * ping)

"""What one connection may send before anybody has asked who it is, over real sockets."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
import time
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from websockets.sync.client import connect

from service.server.websocket_protocol import MOST_FRAGMENTS
from tests.support.waiting import wait_for

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    "GET /v1/stream/decode HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
HEADERS = "".join(f"X-{index}: 1\r\n" for index in range(200))


def open_socket(running: Any) -> socket.socket:
    url = httpx.URL(running.url)
    return socket.create_connection((url.host, url.port or 80), timeout=300)


def received(connection: socket.socket, until: bytes = b"") -> bytes:
    parts = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts += part
            if until and until in parts:
                break
    return parts


def test_pipelined_requests_wait_as_bytes(running: Any) -> None:
    count = 5000
    with open_socket(running) as connection:
        sender = threading.Thread(target=connection.sendall, args=(count * REQUEST,))
        sender.start()
        most = 0
        for _ in range(20):
            time.sleep(0.02)
            alive = sum(type(item) is RequestResponseCycle for item in gc.get_objects())
            most = max(most, alive)
        assert most < count / 10
        answers = 0
        while answers < 500:
            answers += connection.recv(65536).count(b"HTTP/1.1 200")
    sender.join(0.1)


def test_pipelined_requests_are_answered_in_order(running: Any) -> None:
    paths = ["/health/live", "/v1/nothing", "/health/ready", "/v1/nothing"] * 60
    with open_socket(running) as connection:
        text = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths)
        connection.sendall(
            text.encode() + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answers = received(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"404"] * 120 + [b"200"]


def test_a_line_end_after_a_body_does_not_drop_a_late_answer(serve: Any, model_ref: str) -> None:
    with serve(model=model_ref, device="cpu", header_timeout=0.3) as running:
        gate = threading.Event()
        hold = running.service.io._pool
        blocked = [hold.submit(gate.wait, 30) for _ in range(4)]
        with open_socket(running) as connection:
            body = b'{"codes":[[1],[1,2],[1,2,3,4]]}'
            head = f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body + b"\r\n")
            time.sleep(1.0)
            gate.set()
            assert received(connection, b"data").startswith(b"HTTP/1.1 200")
        assert all(future.result() for future in blocked)


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ("Content-Length: 5\r\n\r\nhello", b"400"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        ("Authorization: " + 9000 * "c" + "\r\n\r\n", b"431"),
        (HEADERS + "\r\n", b"431"),
        ("Cookie: " + 9000 * "c" + "\r\n\r\n", b"101"),
    ],
)
def test_a_handshake_is_answered_whatever_comes_with_it(
    running: Any, extra: str, status: bytes
) -> None:
    with open_socket(running) as connection:
        connection.sendall((UPGRADE + extra).encode())
        if status == b"101":
            assert received(connection, b"\r\n\r\n")[9:12] == status
        else:
            assert received(connection)[9:12] == status
    if status != b"101":
        assert running.metric('snac_connections_refused_total{reason="handshake"}') >= 1


def test_a_refused_handshake_does_not_keep_the_service_from_ending(
    serve: Any, model_ref: str
) -> None:
    with (
        contextlib.ExitStack() as open_sockets,
        serve(model=model_ref, device="cpu", drain_timeout=1) as running,
    ):
        for _ in range(3):
            connection = open_sockets.enter_context(open_socket(running))
            connection.sendall((UPGRADE + "Content-Length: 5\r\n\r\n").encode())
        refused = 'snac_connections_refused_total{reason="handshake"}'
        wait_for(lambda: running.metric(refused) == 3)


def test_an_origin_that_is_no_url_is_another_site(running: Any) -> None:
    with open_socket(running) as connection:
        connection.sendall((UPGRADE + "Origin: http://[\r\n\r\n").encode())
        assert received(connection)[9:12] == b"403"


def test_nobody_is_sent_to_a_host_that_a_client_made_up(running: Any) -> None:
    answer = running.http.get("/v1/models/", headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "Location" not in answer.headers


def test_an_accept_header_of_commas_is_refused_at_once(running: Any) -> None:
    answer = running.http.post("/v1/encode", content=b"x", headers={"Accept": "," * 60_000})
    assert answer.status_code == 406


def test_a_head_over_the_limit_is_refused_even_in_one_piece(serve: Any, model_ref: str) -> None:
    with serve(model=model_ref, device="cpu", max_header_bytes=8192) as running:
        for size, status in ((8000, b"200"), (9000, b"400")):
            with open_socket(running) as connection:
                head = f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: {size * 'x'}\r\n\r\n"
                connection.sendall(head.encode())
                assert received(connection, b"\r\n\r\n")[9:12] == status


def test_messages_with_nothing_in_them_leave_turns_to_others(running: Any) -> None:
    frame = struct.pack("!BB4x", 0x81, 0x82) + b"[]"
    url = running.url.replace("http", "ws") + "/v1/stream/decode"
    with connect(url, ping_interval=None, max_size=None) as stream:
        stream.send('{"type":"start"}')
        stream.recv()
        ended = threading.Event()

        def flood() -> None:
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    stream.socket.sendall(2000 * frame)

        sender = threading.Thread(target=flood)
        sender.start()
        try:
            for _ in range(5):
                began = time.monotonic()
                assert httpx.get(f"{running.url}/health/live", timeout=60).is_success
                assert time.monotonic() - began < 10
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                stream.socket.shutdown(socket.SHUT_RDWR)
            sender.join()


def test_a_message_of_endless_empty_parts_is_refused(running: Any) -> None:
    with open_socket(running) as connection:
        connection.sendall((UPGRADE + "\r\n").encode())
        assert received(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
        first, more = struct.pack("!BB4x", 0x01, 0x80), struct.pack("!BB4x", 0x00, 0x80)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(first + (MOST_FRAGMENTS + 10) * more)
        assert struct.pack("!H", 1009) in received(connection)

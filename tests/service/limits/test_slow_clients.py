"""Clients that take their time, over real sockets; and requests that have little of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.http_raw import PATIENCE, connect, everything


def test_a_connection_that_asks_for_nothing_is_closed(impatient: Any) -> None:
    with connect(impatient) as connection:
        assert everything(connection) == b""


def test_a_head_that_never_ends_is_closed(impatient: Any) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        assert everything(connection) == b""


def test_so_is_the_second_head_on_a_connection(patient: Any) -> None:
    with connect(patient) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come apart
            answer += (piece := connection.recv(65536))
            assert piece
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health")
        assert everything(connection) == b""


def test_a_head_without_measure_is_refused(impatient: Any) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        for _ in range(20):
            try:
                connection.sendall(b"x" * 1000)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.005)
        answer = everything(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert impatient.http.get("/health/live").status_code == 200


@pytest.mark.parametrize("rest", [b"x", b"x" * 900], ids=["some", "all"])
def test_a_body_that_comes_after_its_answer_keeps_no_connection(
    impatient: Any, rest: bytes
) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(rest)
        everything(connection)


def test_trailers_without_measure_are_cut(running: Any) -> None:
    with connect(running) as connection:
        connection.sendall(
            b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"4\r\nRIFF\r\n0\r\nX-Long: "
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(64):
                connection.sendall(b"x" * 2**14)
        assert everything(connection) == b""


@pytest.mark.parametrize("path", ["/v1/encode", "/v1/decode"])
def test_a_body_that_stops_is_408(impatient: Any, path: str) -> None:
    with connect(impatient) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n".encode()
        )
        connection.sendall(b"RIFF")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:snac:problem:slow-client" in answer
    assert b"connection: close" in answer.lower()


def test_a_body_that_drips_is_408(impatient: Any) -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x"
            time.sleep(0.05)

    with connect(impatient) as connection:
        connection.sendall(b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n")
        try:
            for piece in drip():
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = everything(connection)
    assert answer == b"" or b"a second" in answer
    assert impatient.metric('snac_requests_total{outcome="slow-client",route="/v1/encode"}') >= 1


def test_a_body_that_keeps_up_is_taken_however_long_it_takes(
    patient: Any, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(0.2))

    def steadily() -> Iterator[bytes]:
        for start in range(0, len(wav), 2000):
            yield wav[start : start + 2000]
            time.sleep(0.25)

    assert len(wav) / 2000 * 0.25 > PATIENCE
    assert patient.http.post("/v1/encode", content=steadily()).status_code == 200

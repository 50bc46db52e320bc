"""Clients that read responses slowly, memory reserved for them, and request deadlines."""

from __future__ import annotations

import contextlib
import io
import json
import select
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.http_raw import connect, everything
from tests.support.waiting import wait_for


@pytest.fixture
def silent_engine(impatient: Any) -> Iterator[None]:
    """Decoding costs nothing, and is silence: only what becomes of answers is looked at."""
    codec = impatient.service.models.codec

    def silence(steps: Any) -> None:
        for step in steps:
            step.job.take(step.window, np.zeros(step.window.samples, np.float32))

    codec.run = silence
    yield
    del codec.run


def reset(connection: socket.socket) -> bool:
    """Whether the server has cut the connection, whatever is unread on it."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


CODES = {"codes": [[1] * 70, [1] * 140, [1] * 280]}


def slow(running: Any) -> socket.socket:
    """Return a connection that takes little of an answer until somebody reads it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = httpx.URL(running.url)
    connection.settimeout(300)
    connection.connect((url.host, url.port))
    return connection


def ask(running: Any, path: str, body: dict[str, Any]) -> socket.socket:
    """Post ``body`` on such a connection."""
    connection = slow(running)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.usefixtures("silent_engine")
def test_200_clients_that_do_not_read_are_let_go(impatient: Any) -> None:
    whole = len(impatient.http.post("/v1/decode", json=CODES).content)
    line = 'snac_requests_total{outcome="ok",route="/v1/decode"}'
    with ThreadPoolExecutor(20) as pool:
        connections = list(pool.map(lambda _: ask(impatient, "/v1/decode", CODES), range(200)))
        try:
            wait_for(lambda: line in impatient.http.get("/metrics").text)
            wait_for(lambda: impatient.metric(line) >= 200)
            # Nobody has read a byte, and the answers are larger than what the kernel holds.
            assert impatient.http.get("/health/ready").status_code == 200
            wait_for(lambda: all(reset(connection) for connection in connections))
            assert all(len(everything(connection)) < whole for connection in connections)
        finally:
            for connection in connections:
                connection.close()
    assert impatient.http.get("/health/ready").status_code == 200


@pytest.mark.usefixtures("silent_engine")
def test_a_streamed_answer_that_nobody_reads_is_not_made(impatient: Any) -> None:
    """A minute and a half of audio is asked for; what the kernel holds is all that is decoded."""
    frames = 1050
    codes = {"codes": [[1] * frames, [1] * 2 * frames, [1] * 4 * frames]}
    opened = 'snac_streams_open{kind="decode-http"}'
    answered = 'snac_stream_audio_seconds_total{kind="decode-http"}'
    with ask(impatient, "/v1/decode?stream=true", codes) as connection:
        wait_for(lambda: answered in impatient.http.get("/metrics").text)
        wait_for(lambda: reset(connection))
        wait_for(lambda: impatient.metric(opened) == 0)
        assert 0 < impatient.metric(answered) < 20
        assert impatient.metric("snac_stream_held_seconds") == 0
    assert impatient.http.get("/health/ready").status_code == 200


def test_answers_that_nobody_takes_are_bounded_together(serve: Any, model_ref: str) -> None:
    """Two have room. A third is refused before it is made, until one is read, or given up."""
    whole = 44 + 2 * 2048 * len(CODES["codes"][0])
    with (
        serve(
            model=model_ref, device="cpu", caller_share=1, max_held_bytes=whole * 5 // 2
        ) as running,
        contextlib.ExitStack() as connections,
    ):

        def held() -> float:
            return float(running.metric("snac_held_bytes"))

        def unread(count: int) -> list[socket.socket]:
            asked = [
                connections.enter_context(ask(running, "/v1/decode", CODES)) for _ in range(count)
            ]
            wait_for(lambda: held() == 2 * whole)
            return asked

        def refused() -> bool:
            answer = running.http.post("/v1/decode", json=CODES)
            if answer.status_code == 429:
                assert answer.json()["type"] == "urn:snac:problem:overloaded"
                assert int(answer.headers["Retry-After"]) >= 1
                return True
            assert answer.is_success, answer.text
            return False

        read, left = unread(2)
        assert refused()
        assert running.http.get("/health/ready").status_code == 200
        expected = running.metric('snac_audio_seconds_total{kind="decode"}')
        assert refused()
        assert running.metric('snac_audio_seconds_total{kind="decode"}') == expected
        assert held() == 2 * whole

        read.shutdown(socket.SHUT_WR)
        assert len(everything(read)) > whole
        wait_for(lambda: held() == whole)
        assert not refused()

        (another,) = unread(1)
        assert refused()
        left.close()
        another.close()
        wait_for(lambda: held() == 0)
        assert not refused()


def test_answers_have_their_room_before_they_are_made(serve: Any, model_ref: str) -> None:
    """Of five that are asked for at once two have room, and two more once those have left."""
    body, room = len(json.dumps(CODES)), 2 * 2048 * len(CODES["codes"][0])
    with (
        serve(
            model=model_ref, device="cpu", caller_share=1, max_held_bytes=room * 5 // 2
        ) as running,
        contextlib.ExitStack() as stack,
    ):
        codec = running.service.models.codec
        gate, run = threading.Event(), codec.run
        stack.callback(gate.set)

        def held(steps: Any) -> None:
            assert gate.wait(300)
            run(steps)

        codec.run = held

        def outcomes(name: str) -> float:
            line = f'snac_requests_total{{outcome="{name}",route="/v1/decode"}}'
            return float(running.metric(line)) if line in running.http.get("/metrics").text else 0

        for turn in (1, 2):
            with contextlib.ExitStack() as connections:
                asked = [
                    connections.enter_context(ask(running, "/v1/decode", CODES)) for _ in range(5)
                ]
                wait_for(lambda turn=turn: outcomes("overloaded") == 3 * turn)  # type: ignore[misc]
                wait_for(lambda: running.metric("snac_held_bytes") == 2 * (room + body))
                if turn == 2:
                    gate.set()
                    answers = sorted(connection.recv(12) for connection in asked)
                    assert answers == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 429"] * 3
            wait_for(lambda: running.metric("snac_held_bytes") == 0)
        assert outcomes("disconnected") == 2


def test_an_item_that_fails_gives_its_room_to_others(serve: Any, model_ref: str) -> None:
    samples = 2048 * len(CODES["codes"][0])
    room = 2 * samples * 4 // 3  # in base64
    short = {"codes": [level[: len(level) // 2] for level in CODES["codes"]]}
    content = json.dumps({"items": [short, CODES]})
    with (
        serve(model=model_ref, device="cpu", io_threads=1) as running,
        contextlib.ExitStack() as stack,
    ):
        codec = running.service.models.codec
        gate, run = threading.Event(), codec.run

        def half(steps: Any) -> None:
            if any(step.job.codes.num_samples < samples for step in steps):
                raise RuntimeError("not this one")
            assert gate.wait(300)
            run(steps)

        codec.run = half
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(gate.set)
        asked = pool.submit(running.http.post, "/v1/decode/batch", content=content)
        wait_for(lambda: running.metric("snac_held_bytes") == len(content) + room)
        gate.set()
        results = asked.result(300).json()["results"]
        assert [item.get("problem", {}).get("status") for item in results] == [500, None]


def test_lines_that_nobody_takes_are_bounded(
    serve: Any, model_ref: str, wav_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six files; the connection takes two of their lines unread, and two and a half have room."""
    # Decoded audio would be all that has room.
    monkeypatch.setattr("service.api.pipeline.SAMPLE_BYTES", 0)
    flac = wav_of(np.zeros(24000 * 300, np.float32), format="FLAC", subtype="PCM_16")
    files = [("files", ("a.flac", flac))] * 6
    request = httpx.Request("POST", "http://x/v1/encode/batch?layout=orpheus", files=files)
    content = request.read()
    line = 7 * 7 * 24000 * 300 // 2048
    most = len(content) + line * 5 // 2
    with serve(model=model_ref, device="cpu", caller_share=1, max_held_bytes=most) as running:
        codec = running.service.models.codec
        strides = [codec.config.hop * stride for stride in codec.config.vq_strides]

        def silence(steps: Any) -> None:
            for step in steps:
                levels = [np.zeros(step.window.samples // stride) for stride in strides]
                step.job.take(step.window, levels)

        codec.run = silence
        with slow(running) as connection:
            head = (
                f"POST {request.url.raw_path.decode()} HTTP/1.1\r\nHost: x\r\n"
                f"Content-Type: {request.headers['Content-Type']}\r\n"
                f"Accept: application/x-ndjson\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content)
            finished = 'snac_stage_seconds_count{stage="write"}'
            wait_for(lambda: finished in running.http.get("/metrics").text)
            wait_for(lambda: running.metric(finished) == 6)
            assert len(content) + 2 * line < running.metric("snac_held_bytes") <= most
            said = b""
            while not said.endswith(b"\r\n0\r\n\r\n"):
                said += connection.recv(65536)
        assert 2 <= said.count(b'"result":') < 6
        assert said.count(b'"result":') + said.count(b'"status":413') == 6
        wait_for(lambda: running.metric("snac_held_bytes") == 0)


def test_an_answer_that_never_has_room_is_413(serve: Any, model_ref: str) -> None:
    """In base64 one item has room, as audio two; the next is refused before it is decoded."""
    with serve(model=model_ref, device="cpu", caller_share=1, max_held_bytes=600_000) as running:
        answer = running.http.post("/v1/decode/batch", json={"items": [CODES] * 2})
        results = answer.json()["results"]
        assert [item.get("problem", {}).get("status") for item in results] == [None, 413]
        zipped = running.http.post(
            "/v1/decode/batch", json={"items": [CODES] * 3}, headers={"Accept": "application/zip"}
        )
        with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
            (failed,) = (name for name in archive.namelist() if name.endswith(".problem.json"))
            assert json.loads(archive.read(failed))["status"] == 413
            assert len(archive.namelist()) == 3
        three = {"codes": [3 * level for level in CODES["codes"]]}
        assert running.http.post("/v1/decode", json=three).status_code == 413
        assert running.http.post("/v1/decode/batch", json={"items": [CODES]}).is_success
        assert running.metric("snac_held_bytes") == 0


def test_a_slow_reader_that_keeps_up_gets_all_of_it(
    patient: Any, samples_of: Any, wav_of: Any
) -> None:
    codes = patient.http.post("/v1/encode", content=wav_of(samples_of(6.0))).content
    whole = patient.http.post("/v1/decode", content=codes).content
    with patient.http.stream("POST", "/v1/decode", content=codes) as answer:
        parts = []
        for part in answer.iter_raw(65536):
            parts.append(part)
            time.sleep(0.05)
    assert b"".join(parts) == whole


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon", "1e999", ""])
def test_a_timeout_that_cannot_be_is_422(
    running: Any, samples_of: Any, wav_of: Any, given: str
) -> None:
    answer = running.http.post(
        "/v1/encode", content=wav_of(samples_of(0.2)), headers={"X-Request-Timeout": given}
    )
    assert answer.status_code == 422
    assert "X-Request-Timeout" in answer.json()["detail"]


def test_a_request_in_a_hurry_is_504_and_leaves_the_queue(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    wav = wav_of(samples_of(1.0))
    with serve(model=model_ref, device="cpu", request_timeout=300.0) as running:
        codec = running.service.models.codec
        gate, entered, run, ran = threading.Event(), threading.Event(), codec.run, []

        def held(steps: Any) -> None:
            entered.set()
            assert gate.wait(300)
            ran.append(len(steps))
            run(steps)

        codec.run = held
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(running.http.post, "/v1/encode", content=wav)
            assert entered.wait(300)
            hurried = {"X-Request-Timeout": "1"}
            late = running.http.post("/v1/encode", content=wav, headers=hurried)
            batch = running.http.post(
                "/v1/encode/batch", files=[("files", ("a.wav", wav))] * 2, headers=hurried
            )
            gate.set()
            assert first.result(300).status_code == 200
        assert late.status_code == 504
        assert "more than 1 s" in late.json()["detail"]
        assert [item["problem"]["status"] for item in batch.json()["results"]] == [504, 504]
        patient = {"X-Request-Timeout": "1000"}
        assert running.http.post("/v1/encode", content=wav, headers=patient).status_code == 200
        assert ran == [1, 1]
        assert running.service.engine.queued_seconds == 0.0


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/v1/encode", "audio/wav"),
        ("/v1/encode/batch", "multipart/form-data; boundary=x"),
        ("/v1/decode", "application/json"),
        ("/v1/decode/batch", "application/json"),
        ("/v1/reconstruct", "audio/wav"),
    ],
)
def test_a_body_that_is_not_there_in_time_is_504(running: Any, path: str, media: str) -> None:
    with connect(running) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\n"
            "Content-Length: 900\r\nX-Request-Timeout: 1\r\n\r\n".encode()
        )
        connection.sendall(b"-")
        assert connection.recv(65536).startswith(b"HTTP/1.1 504")


def test_nobody_may_ask_for_more_time_than_the_service_gives(
    serve: Any, model_ref: str, samples_of: Any, wav_of: Any
) -> None:
    with serve(model=model_ref, device="cpu", request_timeout=0.2) as running:
        codec = running.service.models.codec
        gate, run = threading.Event(), codec.run
        codec.run = lambda steps: (gate.wait(300), run(steps))[1]
        answer = running.http.post(
            "/v1/encode", content=wav_of(samples_of(0.5)), headers={"X-Request-Timeout": "60"}
        )
        gate.set()
        assert answer.status_code == 504
        assert "more than 0.2 s" in answer.json()["detail"]

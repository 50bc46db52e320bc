"""What streams may take from each other and from the service: room, time, memory, trust."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from snac_core.codec import Codec
from snac_core.store import ModelStore
from tests.support.codec_spy import Gate
from tests.support.streams import (
    END,
    FRAME_SECONDS,
    KEY,
    audio_of,
    connect,
    hear,
    refusal,
    tokens_of,
    ws,
)
from tests.support.waiting import wait_for


def open_streams(running: Any, kind: str = "decode") -> float:
    return float(running.metric(f'snac_streams_open{{kind="{kind}"}}'))


def outcome(running: Any, name: str, kind: str = "decode") -> float:
    return float(running.metric(f'snac_streams_total{{kind="{kind}",outcome="{name}"}}'))


def test_steps_of_many_streams_are_one_batch(running: Any, codec: Codec, wav_of: Any) -> None:
    engine = running.service.engine
    blocker = wav_of(np.zeros(2048, np.float32))
    clips = [tokens_of(codec, 5 + index, index) for index in range(6)]

    def one(tokens: npt.NDArray[np.int32]) -> bytes:
        with connect(ws(running)) as stream:
            stream.send(tokens.tobytes())
            stream.send(END)
            data, said, code = hear(stream)
            assert (said[-1]["type"], code) == ("done", 1000)
            return data

    with Gate(running.service.models.codec) as gate, ThreadPoolExecutor(7) as pool:
        gate.free.clear()
        blocked = pool.submit(running.http.post, "/v1/encode", content=blocker)
        wait_for(lambda: gate.sizes == [1])
        answers = [pool.submit(one, clip) for clip in clips]
        # Each stream has one step in the queue, behind what the engine is held at.
        wait_for(lambda: engine.queued_seconds > 6.5 * FRAME_SECONDS)
        gate.free.set()
        made = [np.frombuffer(answer.result(), "<f4") for answer in answers]
        assert blocked.result().is_success
    assert gate.sizes[:2] == [1, 6]
    for audio, clip in zip(made, clips, strict=True):
        assert np.abs(audio - audio_of(codec, clip)).max() <= 1e-5


def test_a_stream_stays_with_the_model_it_began_on(
    serve: Any, store: ModelStore, tiny_config: Any, variant: Any
) -> None:
    import snac_core

    with serve(model_store=store.root, device="cpu", reload_interval=0.05) as running:
        old = snac_core.load(str(store.root), "cpu")
        tokens = tokens_of(old, 10)
        with connect(ws(running)) as stream:
            stream.send(tokens[:6].tobytes())
            ready = json.loads(stream.recv(300))
            first = stream.recv(300)
            assert isinstance(first, bytes)
            new = store.publish(tiny_config, variant(1))
            wait_for(lambda: running.service.models.codec.version == new)
            stream.send(tokens[6:].tobytes())
            stream.send(END)
            data, said, code = hear(stream)
        assert code == 1000
        assert ready["model"]["version"] == said[-1]["model"]["version"] == old.version
        made = np.frombuffer(first + data, "<f4")
        assert np.abs(made - audio_of(old, tokens)).max() <= 1e-5
        with connect(ws(running)) as stream:
            assert json.loads(stream.recv(300))["model"]["version"] == new
            stream.send(tokens.tobytes())
            stream.send(END)
            data, _, _ = hear(stream)
        after = np.frombuffer(data, "<f4")
        newer = snac_core.load(str(store.root), "cpu")
        assert np.abs(after - audio_of(newer, tokens)).max() <= 1e-5
        assert np.abs(after - made).max() > 1e-3


@contextlib.contextmanager
def allowed(running: Any, **how: Any) -> Iterator[ClientConnection]:
    with connect(ws(running), additional_headers={"X-Api-Key": KEY}, **how) as stream:
        yield stream


def test_one_stream_too_many_is_refused_before_it_is_opened(strict: Any) -> None:
    with allowed(strict), allowed(strict):
        wait_for(lambda: open_streams(strict) == 2)
        status, problem, headers = refusal(strict, additional_headers={"X-Api-Key": KEY})
        assert (status, problem["type"]) == (429, "urn:snac:problem:overloaded")
        assert int(headers["Retry-After"]) >= 1
        answer = strict.http.post(
            "/v1/decode?stream=true",
            json={"codes": [[0], [0, 0], [0] * 4]},
            headers={"X-Api-Key": KEY},
        )
        assert answer.status_code == 429
    wait_for(lambda: open_streams(strict) == 0)
    with allowed(strict) as stream:
        assert json.loads(stream.recv(300))["type"] == "ready"


def test_a_stream_on_which_nothing_moves_is_ended(serve: Any, model_ref: str) -> None:
    with (
        serve(model=model_ref, device="cpu", stream_idle_timeout=0.5) as running,
        connect(ws(running)) as stream,
    ):
        _, said, code = hear(stream)
        assert [message["type"] for message in said] == ["ready", "problem"]
        assert said[-1]["problem"]["type"] == "urn:snac:problem:idle"
        assert code == 1008
        wait_for(lambda: has(running, "idle"))


def test_a_stream_that_waits_for_the_engine_is_not_idle(
    serve: Any, model_ref: str, codec: Codec
) -> None:
    tokens = tokens_of(codec, 4)
    with (
        serve(model=model_ref, device="cpu", stream_idle_timeout=0.5) as running,
        Gate(running.service.models.codec) as gate,
        connect(ws(running)) as patient,
    ):
        gate.free.clear()
        patient.send(tokens.tobytes())
        patient.send(END)
        wait_for(lambda: gate.sizes == [1])
        with connect(ws(running)) as idle:
            _, said, code = hear(idle)
        assert (said[-1]["problem"]["type"], code) == ("urn:snac:problem:idle", 1008)
        gate.free.set()
        data, said, code = hear(patient)
    assert (said[-1]["type"], code) == ("done", 1000)
    assert np.abs(np.frombuffer(data, "<f4") - audio_of(codec, tokens)).max() <= 1e-5


def test_a_stream_may_not_be_open_for_ever(serve: Any, model_ref: str) -> None:
    with (
        serve(model=model_ref, device="cpu", stream_max_seconds=0.5) as running,
        connect(ws(running)) as stream,
    ):
        _, said, code = hear(stream)
    assert said[-1]["problem"]["type"] == "urn:snac:problem:deadline"
    assert code == 1008


@pytest.mark.parametrize(("size", "told"), [(5000, True), (100_000, False)])
def test_a_message_may_not_be_too_large(strict: Any, size: int, told: bool) -> None:
    with allowed(strict) as stream:
        assert json.loads(stream.recv(300))["type"] == "ready"
        with contextlib.suppress(ConnectionClosed):
            stream.send(bytes(size))
        _, said, code = hear(stream)
    assert code == 1009
    assert [message["problem"]["status"] for message in said] == ([413] if told else [])


def test_a_start_of_many_fields_is_refused_before_it_is_parsed(running: Any) -> None:
    fields = ",".join(f'"{number}":0' for number in range(90_000))
    with connect(f"{running.url.replace('http', 'ws')}/v1/stream/decode") as stream:
        stream.send(f'{{"type":"start",{fields}}}')
        _, said, code = hear(stream)
    assert code == 1009
    assert "a start has at most 16384" in said[0]["problem"]["detail"]


def test_streams_wait_where_a_request_would_be_refused(strict: Any, codec: Codec) -> None:
    tokens = tokens_of(codec, 4)

    def one() -> bytes:
        with allowed(strict) as stream:
            stream.send(tokens.tobytes())
            stream.send(END)
            data, said, code = hear(stream)
            assert (said[-1]["type"], code) == ("done", 1000)
            return data

    with ThreadPoolExecutor(2) as pool:
        answers = {answer.result() for answer in [pool.submit(one), pool.submit(one)]}
    assert len(answers) == 1
    assert np.abs(np.frombuffer(answers.pop(), "<f4") - audio_of(codec, tokens)).max() <= 1e-5


def test_a_reader_who_stops_stops_only_itself(serve: Any, model_ref: str, codec: Codec) -> None:
    """Its tokens are 170 s of audio; hardly any of it is made, and nothing piles up."""
    tokens = tokens_of(codec, 2000)
    pieces = [piece.tobytes() for piece in np.array_split(tokens, 200)]
    peaks: list[float] = []
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with serve(model=model_ref, device="cpu", stream_buffer_seconds=1.0) as running:
        address = running.url.removeprefix("http://").split(":")
        lazy.connect((address[0], int(address[1])))
        service, model = running.service, running.service.models.codec
        run = model.run

        def watched(steps: Any) -> None:
            peaks.append(sum(stream.held_seconds for stream in service.streams.all))
            run(steps)

        model.run = watched
        with connect(ws(running), sock=lazy, max_queue=1) as stream, ThreadPoolExecutor(1) as pool:

            def talk() -> None:
                with contextlib.suppress(ConnectionClosed):
                    for piece in pieces:
                        stream.send(piece)

            sending = pool.submit(talk)
            still = 0

            def stuck() -> bool:
                nonlocal still
                before = len(peaks)
                held = next(iter(service.streams.all))
                time.sleep(0.02)
                quiet = held.sending and held.full and len(peaks) == before
                still = still + 1 if quiet else 0
                return still == 20

            wait_for(stuck)
            answered = running.metric('snac_stream_audio_seconds_total{kind="decode"}')
            assert 0 < answered < 20
            # A message is 10 frames; one may come while there is just room.
            assert max(peaks) <= 1.0 + 2 * 10 * FRAME_SECONDS
            assert running.metric("snac_stream_held_seconds") <= 1.0 + 2 * 10 * FRAME_SECONDS
            other = tokens_of(codec, 4)
            with connect(ws(running)) as quick:
                quick.send(other.tobytes())
                quick.send(END)
                data, said, _ = hear(quick)
            assert said[-1]["type"] == "done"
            assert len(data) == 4 * 4 * 2048
            reset(stream)
            wait_for(lambda: open_streams(running) == 0)
            sending.result()
        assert running.metric("snac_stream_held_seconds") == 0
        assert outcome(running, "disconnected") == 1


def reset(stream: ClientConnection) -> None:
    """Drop the connection as a machine that loses its network does, without a farewell."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.shutdown(socket.SHUT_RDWR)
    stream.socket.close()


def test_a_client_that_leaves_frees_everything_at_once(running: Any, codec: Codec) -> None:
    before = outcome(running, "disconnected") if has(running, "disconnected") else 0
    with Gate(running.service.models.codec) as gate:
        gate.free.clear()
        streams = [connect(ws(running)) for _ in range(3)]
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(stream) for stream in streams]
            for stream in opened:
                stream.send(tokens_of(codec, 6).tobytes())
            wait_for(lambda: running.service.engine.queued_seconds > 2.5 * FRAME_SECONDS)
            for stream in opened:
                stream.close()
            # The engine is still busy with the first one's step.
            wait_for(lambda: open_streams(running) == 0)
            assert running.metric("snac_stream_held_seconds") == 0
            gate.free.set()
    wait_for(lambda: running.service.engine.queued_seconds < 1e-9)
    assert len(gate.sizes) == 1
    assert outcome(running, "disconnected") == before + 3


def has(running: Any, name: str) -> bool:
    return (
        f'snac_streams_total{{kind="decode",outcome="{name}"}}' in running.http.get("/metrics").text
    )

"""Clients that leave, requests whose time is over, and a service that stops: what ends then."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from service.engine.io_pool import IoPool
from service.observability.metrics import Metrics
from snac_core import audio, quality
from snac_core.audio.source import BLOCK_SAMPLES, SoundSource
from snac_core.streaming import StreamingEncoder
from snac_core.utils.incremental import Incremental
from tests.support.codec_spy import Gate
from tests.support.http_raw import multipart, post
from tests.support.waiting import wait_for

ENDLESS_RATE = 768_000
SERVE_ENDLESS = [sys.executable, "-m", "tests.service.limits.serve_endless"]
CODES = {"codes": [[1] * 12, [1] * 24, [1] * 48]}


@pytest.fixture(scope="module")
def narrow(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server with one thread for all that is read and written."""
    with serve(model=model_ref, device="cpu", io_threads=1) as running:
        yield running


@dataclasses.dataclass
class Endless:
    """A recording that goes on for ever, how many are half read, and how much was read of them."""

    wav: bytes
    half_read: int = 0
    blocks: int = 0


@pytest.fixture
def endless(wav_of: Any) -> Iterator[Endless]:
    """Have recordings at one rate go on until the test is over."""
    found = Endless(wav_of(np.zeros(1000, np.float32), ENDLESS_RATE))
    over, mono_blocks = threading.Event(), SoundSource.mono_blocks

    def unending(source: SoundSource) -> Iterator[Any]:
        yield from mono_blocks(source)
        if source.sample_rate != ENDLESS_RATE:
            return
        found.half_read += 1
        try:
            while not over.is_set():
                found.blocks += 1
                yield np.zeros(BLOCK_SAMPLES, np.float32)
        finally:
            found.half_read -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoundSource, "mono_blocks", unending)
        yield found
        over.set()
        wait_for(lambda: found.half_read == 0)


def count(running: Any, outcome: str, path: str) -> float:
    route = path.split("?")[0]
    line = f'snac_requests_total{{outcome="{outcome}",route="{route}"}}'
    return float(running.metric(line)) if line in running.http.get("/metrics").text else 0.0


def idle(running: Any) -> bool:
    """Whether nothing is being read or written, and nothing held."""
    lines = ("snac_io_jobs", "snac_held_bytes")
    return all(running.metric(line) == 0 for line in lines)


BATCH, LINES = "/v1/encode/batch", "/v1/encode/batch as lines"


def upload(running: Any, call: str, *files: bytes) -> socket.socket:
    """Post audio to a call, of which there may be several where it takes a batch."""
    if call in (BATCH, LINES):
        body, media = multipart(*files)
        accept = "application/x-ndjson" if call == LINES else "application/json"
        return post(running, BATCH, body, Content_Type=media, Accept=accept)
    return post(running, call, files[0])


UPLOADS = ("/v1/encode", "/v1/reconstruct", BATCH, LINES)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is let go of is gone at once, or stays."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("call", UPLOADS)
def test_who_hangs_up_ends_the_reading_of_its_audio(
    narrow: Any, endless: Endless, samples_of: Any, wav_of: Any, call: str
) -> None:
    """While it is read, what is short is answered, and only one recording is half read."""
    clip, route = wav_of(samples_of(0.2)), call.split(" ")[0]
    left = count(narrow, "disconnected", route)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(upload(narrow, call, endless.wav, endless.wav))
        files = 2 if "batch" in call else 1
        wait_for(lambda: endless.blocks > 0)
        wait_for(lambda: len(narrow.service.io._long._waiters or ()) == 4 * files - 1)
        for _ in range(3):
            before = endless.blocks
            encoded = narrow.http.post("/v1/encode", content=clip)
            assert narrow.http.post("/v1/decode", content=encoded.content).is_success
            assert endless.half_read == 1
            wait_for(lambda before=before: endless.blocks > before)  # type: ignore[misc]
    wait_for(lambda: count(narrow, "disconnected", route) == left + 4)
    wait_for(lambda: idle(narrow) and endless.half_read == 0)
    blocks = endless.blocks
    assert narrow.http.post("/v1/encode", content=clip).is_success
    assert endless.blocks == blocks


@pytest.mark.parametrize("path", ["/v1/encode", "/v1/reconstruct"])
def test_reading_ends_with_the_time_that_a_request_has(
    narrow: Any, endless: Endless, path: str
) -> None:
    late = narrow.http.post(path, content=endless.wav, headers={"X-Request-Timeout": "0.5"})
    assert late.status_code == 504
    assert endless.blocks > 0
    wait_for(lambda: idle(narrow) and endless.half_read == 0)


def held_bytes(http: httpx.Client) -> float:
    """Return what requests hold: their bodies, and what has been decoded of them."""
    lines = http.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("snac_held_bytes ")))


def test_a_service_that_stops_waits_for_no_reading(model_ref: str, wav_of: Any) -> None:
    wav = wav_of(np.zeros(1000, np.float32), ENDLESS_RATE)
    variables = {"SNAC_DEVICE": "cpu", "SNAC_DRAIN_DELAY": "0", "SNAC_DRAIN_TIMEOUT": "1"}
    process = subprocess.Popen(
        [*SERVE_ENDLESS, model_ref, str(ENDLESS_RATE)],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(390, process.kill)
    timer.start()
    try:
        assert process.stderr is not None
        serving = next(line for line in process.stderr if '"serving"' in line)
        with (
            httpx.Client(base_url=json.loads(serving)["url"], timeout=300) as http,
            contextlib.ExitStack() as stack,
        ):
            running = SimpleNamespace(url=str(http.base_url))
            asked = [stack.enter_context(upload(running, call, wav, wav)) for call in UPLOADS * 2]
            sent = 2 * (2 * len(wav) + 2 * len(multipart(wav, wav)[0]))
            wait_for(lambda: held_bytes(http) >= sent)
            wait_for(lambda: "\nsnac_io_jobs 0.0\n" not in http.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
            answers = [connection.recv(65536) for connection in asked]
            assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 6
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def test_what_waits_for_a_thread_does_not_begin_when_nobody_waits_for_it() -> None:
    begun: list[str] = []
    busy, free = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        assert free.wait(300)

    async def leave() -> None:
        threads = IoPool(1, Metrics())
        holding = asyncio.create_task(threads.run(hold))
        assert await asyncio.to_thread(busy.wait, 300)
        leaving = asyncio.create_task(threads.run(begun.append, "left"))
        staying = asyncio.create_task(threads.run(begun.append, "stayed"))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        free.set()
        await asyncio.gather(holding, staying)
        threads.close()

    asyncio.run(leave())
    assert begun == ["stayed"]


def silent(codec: Any) -> Callable[[Any], None]:
    """Return a run that costs nothing: audio is silence, and every code is 4095."""
    strides = [codec.config.hop * stride for stride in codec.config.vq_strides]

    def run(steps: Any) -> None:
        for step in steps:
            length = step.window.samples
            if step.kind == "decode":
                step.job.take(step.window, np.zeros(length, np.float32))
            else:
                levels = [np.full(length // stride, 4095) for stride in strides]
                step.job.take(step.window, levels)

    return run


@pytest.mark.parametrize(
    ("module", "name", "seconds"),
    [(audio, "encode_incremental", 300), (quality, "log_mel_incremental", 1200)],
)
def test_who_hangs_up_ends_the_writing_and_the_measuring_of_its_answer(
    narrow: Any,
    wav_of: Any,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    seconds: int,
) -> None:
    work, pieces, ended = getattr(module, name), [], threading.Event()

    def watched(*arguments: Any) -> Incremental[Any]:
        inner = work(*arguments)
        try:
            while True:
                next(inner)
                pieces.append(1)
                yield
        except StopIteration as end:
            ended.set()
            return end.value

    codec = narrow.service.models.codec
    monkeypatch.setattr(module, name, watched)
    monkeypatch.setattr(codec, "run", silent(codec))
    left = count(narrow, "disconnected", "/v1/reconstruct")
    wav = wav_of(np.zeros(24000 * seconds, np.float32), format="FLAC", subtype="PCM_16")
    media = "audio/ogg" if module is audio else "audio/wav"
    with post(narrow, "/v1/reconstruct", wav, Accept=media):
        wait_for(lambda: len(pieces) > 0)
    wait_for(lambda: count(narrow, "disconnected", "/v1/reconstruct") == left + 1)
    wait_for(lambda: idle(narrow))
    assert not ended.is_set()


def test_a_stream_takes_a_thread_for_a_block_at_a_time_and_none_once_its_client_left(
    narrow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds at 768 kHz, which came while the engine was busy."""
    pushed: list[int] = []
    push = StreamingEncoder.push

    def watched(encoder: StreamingEncoder, samples: Any) -> None:
        pushed.append(len(samples))
        push(encoder, samples)

    monkeypatch.setattr(StreamingEncoder, "push", watched)
    message = bytes(2**20)
    url = narrow.url.replace("http", "ws") + f"/v1/stream/encode?sample_rate={ENDLESS_RATE}"
    for leaves in (False, True):
        pushed.clear()
        with Gate(narrow.service.models.codec, "stream-encode") as gate:
            with connect(url, ping_interval=None) as stream:
                for _ in range(14):
                    stream.send(message)
                wait_for(lambda: narrow.metric("snac_stream_held_seconds") > 9)
                before = sum(pushed)
                if leaves:
                    stream.close()
                    wait_for(lambda: narrow.metric('snac_streams_open{kind="encode"}') == 0)
                gate.free.set()
                if not leaves:
                    stream.send('{"type":"end"}')
                    while json.loads(stream.recv(300))["type"] != "done":
                        pass
            wait_for(lambda: narrow.service.engine.queued_seconds == 0)
        assert max(pushed) <= BLOCK_SAMPLES
        assert sum(pushed) == (before if leaves else 14 * len(message) // 2)


@pytest.mark.parametrize("busy", [False, True], ids=["running", "queued"])
@pytest.mark.parametrize(
    "call", [BATCH, LINES, "/v1/decode?stream=true", "/v1/decode", "/v1/decode/batch"]
)
def test_who_hangs_up_takes_its_work_out_of_the_queue(
    running: Any, samples_of: Any, wav_of: Any, call: str, busy: bool
) -> None:
    engine, clip, route = running.service.engine, wav_of(samples_of(0.2)), call.split(" ")[0]
    left = count(running, "disconnected", route)
    body = {"items": [CODES] * 3} if "decode/batch" in call else CODES
    with (
        Gate(running.service.models.codec, "encode", "decode", "stream-decode") as gate,
        contextlib.ExitStack() as stack,
    ):
        if busy:
            stack.enter_context(post(running, "/v1/encode", clip))
            wait_for(lambda: len(gate.runs) == 1)
        with (
            upload(running, call, clip, clip, clip)
            if "encode" in call
            else post(running, call, json.dumps(body).encode())
        ):
            items = (3 if "batch" in call else 1) + busy
            wait_for(lambda: len(gate.runs) == 1)
            wait_for(lambda: len(engine.scheduler.waiting) + gate.sizes[0] == items)
        wait_for(lambda: count(running, "disconnected", route) == left + 1)
        assert running.metric('snac_streams_open{kind="decode-http"}') == 0
        gate.free.set()
        assert running.http.post("/v1/encode", content=clip).is_success
        # What ran is what was running already, and the clip.
        assert len(gate.runs) == 2
    wait_for(lambda: engine.queued_seconds == 0 and idle(running))


@pytest.mark.parametrize(
    ("path", "held"),
    [
        ("/v1/decode?stream=true", "stream-decode"),
        ("/v1/reconstruct", "encode"),
        ("/v1/reconstruct", "decode"),
    ],
)
def test_an_answer_that_has_not_begun_in_time_is_504(
    running: Any, samples_of: Any, wav_of: Any, path: str, held: str
) -> None:
    clip = wav_of(samples_of(0.2))
    body = clip if "reconstruct" in path else json.dumps(CODES).encode()
    with Gate(running.service.models.codec, held) as gate:
        late = running.http.post(path, content=body, headers={"X-Request-Timeout": "1"})
        assert gate.runs[-1] == held
        gate.free.set()
    assert late.status_code == 504
    assert late.json()["type"] == "urn:snac:problem:deadline"
    assert "more than 1 s" in late.json()["detail"]
    assert count(running, "deadline", path) >= 1
    if "stream" in path:
        line = 'snac_streams_total{kind="decode-http",outcome="deadline"}'
        assert running.metric(line) == 1
    assert running.http.post("/v1/encode", content=clip).is_success
    wait_for(lambda: running.service.engine.queued_seconds == 0 and idle(running))


def test_lines_of_a_batch_arrive_while_others_are_not_finished(
    narrow: Any, endless: Endless, samples_of: Any, wav_of: Any
) -> None:
    """The first file is never finished; the second one's line can be read all the same."""
    body, media = multipart(endless.wav, wav_of(samples_of(0.5)), b"no audio")
    headers = {"Content-Type": media, "Accept": "application/x-ndjson"}
    left = count(narrow, "disconnected", BATCH)
    with narrow.http.stream("POST", BATCH, content=body, headers=headers) as answer:
        lines = answer.iter_lines()
        found = {line["index"]: line for line in (json.loads(next(lines)) for _ in range(2))}
        assert found[1]["result"]["num_samples"] == 12000
        assert found[2]["problem"]["status"] == 400
        assert endless.half_read == 1
    wait_for(lambda: count(narrow, "disconnected", BATCH) == left + 1)

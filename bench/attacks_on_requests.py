"""Attacks by requests: numbers 1 to 9 and 15 of `attacks.py`."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import soundfile
from attacked import MIB, Seen, Target, probed, service
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

Result = tuple[str, Seen | None]
UPGRADE = (
    "GET /v1/stream/decode HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n"
    "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
)


def _posted(path: str, body: bytes, media: str, **settings: Any) -> Result:
    with service(**settings) as target:
        with probed(target) as seen:
            said = target.post(path, body, media)
        return said, seen


def charset() -> Result:
    """A field in punycode, which is decoded in quadratic time."""
    head, value = b'--b\r\nContent-Disposition: form-data; name="x"', b"x-" + 300_000 * b"a"
    part = head + b"\r\n\r\n" + value + b"\r\n--b--\r\n"
    return _posted("/v1/encode", part, "multipart/form-data; boundary=b; charset=punycode")


def unknown_keys() -> Result:
    """A million fields that nobody knows."""
    keys = ",".join(f'"{index}":0' for index in range(500_000))
    return _posted("/v1/decode", f'{{"codes":0,{keys}}}'.encode(), "application/json")


def unknown_keys_in_start() -> Result:
    """As many as fit the first message of a stream."""
    keys = ",".join(f'"{index}":0' for index in range(90_000))
    with service() as target:
        with probed(target) as seen, _stream(target, "decode") as socket_:
            started = time.perf_counter()
            socket_.send(f'{{"type":"start",{keys}}}')
            answer = json.loads(socket_.recv(60))
            took = time.perf_counter() - started
        return f"{answer['problem']['status']} after {took:.1f} s", seen


def pipelining() -> Result:
    """Requests on one connection, none of whose answers is read."""
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with service() as target:
        with probed(target) as seen, target.connect() as connection:
            connection.settimeout(5)
            sent, block = 0, request * 2000
            with contextlib.suppress(OSError):
                while sent < 16 * MIB:
                    sent += connection.send(block)
            time.sleep(1)
        return f"{sent / MIB:.1f} of 16 MiB were taken", seen


def upgrades() -> Result:
    """Handshakes that the WebSocket parser does not finish: are they let go, and does SIGTERM?"""
    kinds = {
        "body": UPGRADE + "\nContent-Length: 5\n\nhello",
        "line": UPGRADE + "\nCookie: " + "c" * 9000,
        "headers": UPGRADE + "".join(f"\nX-{index}: 1" for index in range(200)),
    }
    with service(HEADER_TIMEOUT="2", DRAIN_DELAY="0", DRAIN_TIMEOUT="3") as target:
        answers, hung = {}, []
        with probed(target) as seen:
            for name, head in kinds.items():
                connection = target.connect(4)
                connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
                try:
                    answers[name] = connection.recv(4096)[9:12].decode() or "closed"
                except TimeoutError:
                    answers[name] = "hangs"
                    hung.append(connection)
        code = target.stop()
        for connection in hung:
            connection.close()
        said = ", ".join(f"{name}: {answer}" for name, answer in answers.items())
        return f"{said}; SIGTERM then: {code}", seen


def empty_messages() -> Result:
    """Messages with nothing in them, beside a client with a clip of 0.3 s."""
    with service() as target:
        with probed(target) as seen, _stream(target, "decode") as stream:
            stream.send('{"type":"start"}')
            stream.recv(30)
            frame = b"\x81\x82\0\0\0\0[]"
            raw = stream.socket
            done = threading.Event()

            def flood() -> None:
                sent = 0
                with contextlib.suppress(OSError):
                    while sent < 3 * MIB and not done.is_set():
                        raw.sendall(frame * 5000)
                        sent += 5000 * len(frame)

            sender = threading.Thread(target=flood)
            sender.start()
            time.sleep(0.2)
            said = target.post("/v1/encode", _wav(0.3), "audio/wav")
            done.set()
            raw.shutdown(socket.SHUT_RDWR)
            sender.join()
        return f"the clip: {said}", seen


def large_json() -> Result:
    """30 MiB of valid JSON."""
    level = [0] * (5 * MIB)
    body = json.dumps({"codes": [level, level, level]}, separators=(",", ":")).encode()
    return _posted("/v1/decode/batch", b'{"items":[' + body + b"]}", "application/json")


def large_msgpack() -> Result:
    """30 MiB of msgpack, which parsed is eight times as much, where 256 MiB may be held."""
    body = msgpack.packb({"codes": [[0] * (30 * MIB)]})
    return _posted("/v1/decode", body, "application/msgpack", MAX_HELD_BYTES=str(256 * MIB))


def large_audio() -> Result:
    """Eight FLACs of 25 minutes of silence, where 256 MiB may be held."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(24000 * 1500, np.int16), 24000, format="FLAC")
    with service(MAX_HELD_BYTES=str(256 * MIB), MAX_QUEUE_SECONDS="20000") as target:
        said: list[str] = []
        with probed(target) as seen:
            posting = [
                threading.Thread(
                    target=lambda: said.append(
                        target.post("/v1/encode", file.getvalue(), "audio/flac", timeout=20)[:3]
                    )
                )
                for _ in range(8)
            ]
            for thread in posting:
                thread.start()
            for thread in posting:
                thread.join()
        return f"{len(file.getvalue()) / MIB:.1f} MiB each: {', '.join(sorted(said))}", seen


def price() -> Result:
    """A minute of codes with ``num_samples`` 1, where 100 s a minute may be computed."""
    frames = round(60 * 24000 / 2048)
    codes = [[0] * (frames * count) for count in (1, 2, 4)]
    body = json.dumps({"codes": codes, "num_samples": 1}).encode()
    with service(RATE_LIMIT_AUDIO="100") as target:
        said = [target.post("/v1/decode", body, "application/json")[:3] for _ in range(4)]
        computed = target.metric('snac_audio_seconds_total{kind="decode"}')
        return f"{', '.join(said)}; {computed:.0f} s computed of a share of 100 s", None


def streams_share() -> Result:
    """One caller opens every stream; another asks for one."""
    with service(MAX_STREAMS="16", API_KEYS="tenant-aaaa,tenant-bbbb") as target:
        with probed(target) as seen, contextlib.ExitStack() as streams:
            for _ in range(16):
                with contextlib.suppress(WebSocketException):
                    stream = streams.enter_context(_stream(target, "decode", "tenant-aaaa"))
                    stream.send('{"type":"start"}')
            answers = []
            for _ in range(10):
                try:
                    with _stream(target, "decode", "tenant-bbbb"):
                        answers.append("101")
                except WebSocketException as error:
                    answers.append(str(getattr(error, "response", None) and 429))
                time.sleep(0.2)
        return f"the other: {answers.count('101')} of 10 let in", seen


def engine_share() -> Result:
    """One caller with 32 clips at a time beside one with 2, then with 8: the share of each."""
    with service(API_KEYS="tenant-aaaa,tenant-bbbb", COMPILE="off") as target:
        with probed(target) as seen:
            shares = [(few, *_shared(target, few)) for few in (2, 8)]
        said = [f"32 against {few} at a time: {share:.0%} of {all_}" for few, share, all_ in shares]
        return f"the second caller's share with {', '.join(said)}", seen


def _shared(target: Target, few: int) -> tuple[float, int]:
    """Let one caller post 32 clips at a time and one ``few``; the second's share, and of what."""
    done = {"tenant-aaaa": 0, "tenant-bbbb": 0}
    body, ended = _wav(2.0), threading.Event()

    def post(key: str) -> None:
        with target.client() as http:
            while not ended.is_set():
                answer = http.post("/v1/encode", content=body, headers={"X-Api-Key": key})
                done[key] += answer.is_success and not ended.is_set()

    threads = [
        threading.Thread(target=post, args=(key,))
        for key, count in zip(done, (32, few), strict=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while sum(done.values()) < 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    ended.set()
    for thread in threads:
        thread.join()
    return done["tenant-bbbb"] / max(1, sum(done.values())), sum(done.values())


def rollback() -> Result:
    """Rolling back through a proxy on the same host, and guesses at a key."""
    with service(API_KEY="some-secret", TRUSTED_PROXIES="127.0.0.1") as target:
        with target.client() as http:
            headers = {"X-Forwarded-For": "203.0.113.9"}
            status = http.post("/v1/models/rollback", headers=headers).status_code
            guesses = [
                http.get("/v1/models", headers={"X-Api-Key": f"guess-{index}"}).status_code
                for index in range(300)
            ]
        return f"rollback: {status}; of 300 guesses {guesses.count(401)} were looked at", None


def small_ones() -> Result:
    """Answers to requests that are odd in one way each."""
    said = []
    with service() as target:
        deep = b'{"codes":"' + b"[" * 100 + b'","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
        said.append("depth " + target.post("/v1/decode", deep, "application/json")[:3])
        multipart = "multipart/form-data; boundary=b; charset=undefined"
        part = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n'
        said.append("charset " + target.post("/v1/encode", part, multipart)[:3])
        said.append("origin " + target.send(UPGRADE + "\nOrigin: http://[")[9:12].decode())
        with target.client() as http:
            started = time.perf_counter()
            http.post("/v1/encode", content=b"", headers={"Accept": "," * 60_000})
            said.append(f"commas {time.perf_counter() - started:.2f} s")
            moved = http.get("/v1/models/", headers={"Host": "evil.example"})
            evil = "evil.example" in moved.headers.get("location", "")
            said.append("forged host " + ("followed" if evil else "not followed"))
            policy = http.get("/docs").headers["content-security-policy"]
            hosts = re.findall(r"script-src https://[^/ ]+ ", policy)
            said.append("docs admit " + ("a whole network" if hosts else "named files"))
        said.append("CRLF after a body: " + _after_body(target))
    return ", ".join(said), None


def _after_body(target: Target) -> str:
    head = "POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: "
    body = _wav(60.0)
    with target.connect(60) as connection:
        connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body + b"\r\n")
        try:
            return "answered" if connection.recv(4096) else "dropped"
        except OSError:
            return "dropped"


def _wav(seconds: float) -> bytes:
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(24000 * seconds))
    soundfile.write(file, samples, 24000, format="WAV")
    return file.getvalue()


def _stream(target: Target, kind: str, key: str = "") -> ClientConnection:
    headers = {"X-Api-Key": key} if key else {}
    url = f"ws://{target.host}:{target.port}/v1/stream/{kind}"
    return connect(url, additional_headers=headers, max_size=None, ping_interval=None)


ATTACKS: dict[str, Callable[[], Result]] = {
    "1 punycode": charset,
    "2 unknown keys": unknown_keys,
    "2 unknown keys in a start message": unknown_keys_in_start,
    "3 pipelining": pipelining,
    "4 upgrades": upgrades,
    "5 empty messages": empty_messages,
    "6 large JSON": large_json,
    "6 large msgpack": large_msgpack,
    "6 large audio": large_audio,
    "7 price": price,
    "8 streams of two callers": streams_share,
    "8 engine of two callers": engine_share,
    "9 rollback and guesses": rollback,
    "15 small ones": small_ones,
}

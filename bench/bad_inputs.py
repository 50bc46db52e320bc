"""Send a running service what it should refuse, and print what came back as Markdown.

    python bench/bad_inputs.py [--url http://127.0.0.1:8000] [--model REF]

Without --url it starts a service of its own on a free port, with small limits.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgpack
import numpy as np
import uvicorn

from service.app import create_app
from service.observability import logs
from service.server.http_protocol import server_config
from service.settings import Settings
from snac_core.audio import encode_bytes
from snac_core.codes import Codes

LIMITS: dict[str, Any] = {
    "max_body_bytes": 2_000_000,
    "max_codes_bytes": 400_000,
    "max_seconds": 30.0,
}
"""Settings under which the table's large inputs are too large."""
RATE = 24000
OK_CODES = [[1], [2, 3], [4, 5, 6, 7]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to send, and the status that it deserves."""

    said: str
    path: str
    status: int
    body: bytes | Callable[[], Iterator[bytes]] = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    method: str = "POST"

    def send(self, http: httpx.Client) -> httpx.Response:
        """Send it."""
        content = self.body() if callable(self.body) else self.body
        return http.request(self.method, self.path, content=content, headers=self.headers)


def _wav(seconds: float = 0.2) -> bytes:
    return encode_bytes(np.full(round(seconds * RATE), 0.1, np.float32), RATE)


def _float_wav(*values: float) -> bytes:
    data = struct.pack(f"<{len(values)}f", *values)
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, RATE, 4 * RATE, 4, 32)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVE"
        + fmt
        + (b"data" + struct.pack("<I", len(data)) + data)
    )


def _silent_flac(seconds: float) -> bytes:
    return encode_bytes(np.zeros(round(seconds * RATE), np.float32), RATE, "flac")


def _endless() -> Iterator[bytes]:
    for _ in range(300):
        yield bytes(10_000)


def _json(said: str, status: int, value: object, path: str = "/v1/decode") -> Case:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Case(said, path, status, body, {"Content-Type": "application/json"})


def _codes(said: str, codes: object, status: int = 422, **fields: Any) -> Case:
    return _json(said, status, {"codes": codes, **fields})


def _multipart(*parts: tuple[str, bytes]) -> dict[str, Any]:
    request = httpx.Request(
        "POST", "http://x", files=[(name, ("a.wav", data)) for name, data in parts]
    )
    return {"body": request.read(), "headers": {"Content-Type": request.headers["Content-Type"]}}


def _fields(count: int) -> dict[str, Any]:
    part = '--x\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
    body = (count * part + "--x--\r\n").encode()
    return {"body": body, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


def _npz_bomb() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, level_0=np.zeros(60_000_000, np.int16))
    return file.getvalue()


def _npz_pickle() -> bytes:
    file = io.BytesIO()
    np.savez(file, level_0=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def cases() -> list[Case]:
    """Return the table."""
    npz = {"Content-Type": "application/x-npz"}
    packed = {"Content-Type": "application/msgpack"}
    as_npz = {"Accept": "application/x-npz"}
    unbounded = {"Content-Type": "multipart/form-data"}
    wav = _wav()
    good_msgpack = msgpack.packb({"codes": OK_CODES})
    bomb = b"\x81\xa5codes\xdd\xff\xff\xff\xff"
    lists = b"\x81\xa5codes\xdd" + struct.pack(">I", 300_000) + b"\x90" * 300_000
    three_bytes = msgpack.packb({"codes": [b"123"]})
    good_npz = Codes(tuple(np.array(level) for level in OK_CODES), 2048, RATE).to_npz()
    return [
        Case("no bytes of audio", "/v1/encode", 400),
        Case("text as audio", "/v1/encode", 400, b"this is not audio"),
        Case("random bytes as audio", "/v1/encode", 400, np.random.default_rng(0).bytes(5000)),
        Case("a WAV header and no samples", "/v1/encode", 400, wav[:44]),
        Case("a WAV cut short", "/v1/encode", 400, wav[:-1000]),
        Case("a WAV with a NaN sample", "/v1/encode", 400, _float_wav(0.0, float("nan"))),
        Case("a WAV with an infinite sample", "/v1/encode", 400, _float_wav(float("inf"))),
        Case("a FLAC cut short", "/v1/encode", 400, _silent_flac(2)[:60]),
        Case("60 s in a FLAC of few bytes", "/v1/encode", 413, _silent_flac(60)),
        Case("3 MB, announced", "/v1/encode", 413, bytes(3_000_000)),
        Case("3 MB, unannounced (chunked)", "/v1/encode", 413, _endless),
        Case("audio as text/plain", "/v1/encode", 415, wav, {"Content-Type": "text/plain"}),
        Case("Accept: text/html", "/v1/encode", 406, wav, {"Accept": "text/html"}),
        Case("an unknown layout", "/v1/encode?layout=spiral", 422, wav),
        Case("a base for a layout without", "/v1/encode?layout=flat&base=5", 422, wav),
        Case("base=many", "/v1/encode?layout=orpheus&base=many", 422, wav),
        Case("flat layout as npz", "/v1/encode?layout=flat", 422, wav, as_npz),
        Case("multipart without a boundary", "/v1/encode", 400, b"x", unbounded),
        Case("multipart without 'file'", "/v1/encode", 422, **_multipart(("other", wav))),
        Case("multipart with two files", "/v1/encode", 413, **_multipart(*[("file", wav)] * 2)),
        Case("multipart with 1000 fields", "/v1/encode", 422, **_fields(1000)),
        Case("a batch of no files", "/v1/encode/batch", 422, **_multipart(("other", b"x"))),
        Case("a batch of 70 files", "/v1/encode/batch", 413, **_multipart(*[("files", b"x")] * 70)),
        Case("a batch that is not multipart", "/v1/encode/batch", 415, wav),
        _json("JSON cut short", 400, b'{"codes": [[1], [2'),
        _json("a JSON list", 400, [1, 2, 3]),
        _json("JSON nested 100,000 deep", 400, b'{"codes": ' + b"[" * 100_000 + b"}"),
        _json("no codes", 422, {"layout": "flat"}),
        _codes("a code of 4096", [[1], [2, 4096], [4, 5, 6, 7]]),
        _codes("a negative code", [[-1], [2, 3], [4, 5, 6, 7]]),
        _codes("a code of 10^30", [[10**30], [2, 3], [4, 5, 6, 7]]),
        _codes("a string for a code", [["1"], [2, 3], [4, 5, 6, 7]]),
        _codes("a float for a code", [[1.0], [2, 3], [4, 5, 6, 7]]),
        _codes("true for a code", [[True], [2, 3], [4, 5, 6, 7]]),
        _codes("null for a code", [[None], [2, 3], [4, 5, 6, 7]]),
        _codes("NaN for a code", [[float("nan")], [2, 3], [4, 5, 6, 7]]),
        _json("a number of 5000 digits", 400, b'{"codes": [[' + b"9" * 5000 + b"]]}"),
        _codes("levels of 1 : 2 : 3", [[1], [2, 3], [4, 5, 6]]),
        _codes("two levels", [[1], [2, 3]]),
        _codes("no levels", []),
        _codes("empty levels", [[], [], []]),
        _codes("codes that are a string", "codes"),
        _codes("flat codes as hierarchical", [1, 2, 3, 4, 5, 6, 7]),
        _codes("6 flat codes", [1, 2, 3, 4, 5, 6], layout="flat"),
        _codes("a bare code as orpheus", [1, 2, 3, 4, 5, 6, 7], layout="orpheus"),
        _codes("num_samples of 0", OK_CODES, num_samples=0),
        _codes("more samples than the codes hold", OK_CODES, num_samples=2049),
        _codes("codes of 44.1 kHz audio", OK_CODES, sample_rate=44100),
        _codes("a negative seed", OK_CODES, seed=-1),
        _codes("a seed that is a string", OK_CODES, seed="1"),
        _codes("noise: loud", OK_CODES, noise="loud"),
        _codes("an unknown field", OK_CODES, nun_samples=5),
        _codes("another token space", OK_CODES, 409, token_space="0123456789ab"),
        _codes("34 s of codes", [[1] * 400, [2] * 800, [3] * 1600], 413),
        _json("500 kB of JSON", 413, b'{"codes": [[' + b"1," * 250_000 + b"1]]}"),
        Case("codes as XML", "/v1/decode", 415, b"<codes/>", {"Content-Type": "text/xml"}),
        Case("Accept: audio/mpeg", "/v1/decode", 406, good_npz, {**npz, "Accept": "audio/mpeg"}),
        Case("npz cut short", "/v1/decode", 422, good_npz[:200], npz),
        Case("npz of 120 MB once unpacked", "/v1/decode", 422, _npz_bomb(), npz),
        Case("npz with a pickle", "/v1/decode", 422, _npz_pickle(), npz),
        Case("msgpack cut short", "/v1/decode", 400, good_msgpack[:-3], packed),
        Case("msgpack that announces 4 GB", "/v1/decode", 400, bomb, packed),
        Case("msgpack of 300,000 empty lists", "/v1/decode", 400, lists, packed),
        Case("msgpack with an extension", "/v1/decode", 400, b"\x81\xa5codes\xd4\x01x", packed),
        Case("msgpack with a level of 3 bytes", "/v1/decode", 422, three_bytes, packed),
        _json("a decode batch without items", 422, {}, "/v1/decode/batch"),
        _json("a decode batch of 70", 413, {"items": [{}] * 70}, "/v1/decode/batch"),
        Case("GET /v1/encode", "/v1/encode", 405, method="GET"),
        Case("an unknown path", "/v1/transcode", 404),
        Case("a path that climbs", "/v1/models/..%2f..%2fetc%2fpasswd", 404, method="GET"),
        Case("rollback without a store to roll back", "/v1/models/rollback", 409),
    ]  # fmt: skip


@contextlib.contextmanager
def own_service(model: str) -> Iterator[str]:
    """Serve ``model`` under the table's limits, in this process, on a free port."""
    logs.configure("error")
    app = create_app(Settings(model=model, **LIMITS))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app, app.state.service.settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    if not server.started:
        raise SystemExit("the service did not start")
    lifecycle = app.state.service.lifecycle
    while not lifecycle.started:
        if lifecycle.failure is not None:
            raise SystemExit(str(lifecycle.failure))
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def report(url: str) -> int:
    """Print the table and return how many rows were not as they should be."""
    wrong = 0
    print("| sent | to | answer | problem | detail |\n|---|---|---|---|---|")
    with httpx.Client(base_url=url, timeout=60) as http:
        for case in cases():
            answer = case.send(http)
            problem = answer.json() if "json" in answer.headers["Content-Type"] else {}
            detail = str(problem.get("detail", "")).replace("|", "\\|")[:110]
            mark = "" if answer.status_code == case.status else f" (not {case.status}!)"
            wrong += bool(mark)
            kind = str(problem.get("type", "")).rpartition(":")[2]
            print(
                f"| {case.said} | {case.method} {case.path} | {answer.status_code}{mark} "
                f"| {kind} | {detail} |"
            )
        print(f"\n{len(cases())} rows, {wrong} not as they should be; then: ", end="")
        print(http.get("/health/ready").json())
    return wrong


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service; its limits decide about large inputs")
    parser.add_argument("--model", default="starter", help="for a service of its own")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = arguments.url or stack.enter_context(own_service(arguments.model))
        return min(report(url), 1)


if __name__ == "__main__":
    sys.exit(main())

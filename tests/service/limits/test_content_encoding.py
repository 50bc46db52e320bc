"""Bodies that are compressed, and how much may come of them."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from snac_core.types import Samples

GZIP = {"Content-Encoding": "gzip"}


@pytest.fixture(scope="module")
def small(serve: Any, model_ref: str) -> Iterator[Any]:
    """A server that takes bodies of a megabyte."""
    with serve(model=model_ref, device="cpu", max_body_bytes=2**20) as running:
        yield running


@pytest.fixture
def wav(samples_of: Callable[..., Samples], wav_of: Callable[..., bytes]) -> bytes:
    return wav_of(samples_of(3.0))


def test_a_compressed_body_is_read_as_what_it_holds(running: Any, wav: bytes) -> None:
    expected = running.http.post("/v1/encode", content=wav)
    for body in (gzip.compress(wav), gzip.compress(wav[:999]) + gzip.compress(wav[999:])):
        for kind in ("gzip", "X-GZIP"):
            answer = running.http.post(
                "/v1/encode", content=body, headers={"Content-Encoding": kind}
            )
            assert answer.json() == expected.json()
    chunks = iter([gzip.compress(expected.content)[at : at + 7] for at in range(0, 10**5, 7)])
    json_type = {"Content-Type": "application/json", **GZIP}
    decoded = running.http.post("/v1/decode", content=chunks, headers=json_type)
    assert decoded.content == running.http.post("/v1/decode", json=expected.json()).content


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sends_what_the_gzip_program_made(running: Any, wav: bytes, tmp_path: Path) -> None:
    (tmp_path / "voice.wav").write_bytes(wav)
    line = "gzip -c voice.wav | curl -sS -H 'Content-Encoding: gzip' --data-binary @- "
    done = subprocess.run(
        ["bash", "-c", f"{line}{running.url}/v1/encode"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert json.loads(done.stdout)["num_samples"] == 72000


def test_what_is_no_gzip_is_told(running: Any, wav: bytes) -> None:
    def problem(body: bytes, kind: str = "gzip") -> httpx.Response:
        answer: httpx.Response = running.http.post(
            "/v1/encode", content=body, headers={"Content-Encoding": kind}
        )
        return answer

    plain, cut = problem(wav), problem(gzip.compress(wav)[:-20])
    assert (plain.status_code, cut.status_code) == (400, 400)
    assert "the body is not gzip" in plain.json()["detail"]
    assert "cut short" in cut.json()["detail"]
    assert problem(gzip.compress(wav) + b"more").status_code == 400
    other = problem(zlib.compress(wav), "br")
    assert (other.status_code, other.headers["accept-encoding"]) == (415, "gzip")


def test_limits_are_of_decoded_bytes(small: Any) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as file:
        for _ in range(64):
            file.write(bytes(2**20))
    assert len(bomb.getvalue()) < 2**17
    before = small.metric("snac_held_bytes")
    refused = small.http.post("/v1/encode", content=bomb.getvalue(), headers=GZIP)
    assert refused.status_code == 413
    assert small.metric("snac_held_bytes") == before
    nothing = gzip.compress(b"") * (2**20 // 20 + 10)
    refused = small.http.post("/v1/encode", content=nothing, headers=GZIP)
    assert refused.status_code == 413

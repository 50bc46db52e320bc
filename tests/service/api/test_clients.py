"""What other programs send: curl's and Java's upgrade to HTTP/2, forms of curl, httpx and Node."""

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


def test_form_fields_are_read_as_query_parameters_are(
    running: Running, wav: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "voice.wav"
    file.write_bytes(wav)
    url = f"{running.url}/v1/encode"
    expected = running.http.post("/v1/encode?layout=orpheus&base=0&channel=0", content=wav).json()
    fields = ("-F", "layout=orpheus", "-F", "base=0", "-F", "channel=0", "-F", f"file=@{file}")
    assert curl(*fields, url) == expected
    batch = running.http.post(
        "/v1/encode/batch", files={"files": ("a.wav", wav)}, data={"layout": "flat", "base": ""}
    )
    assert batch.json()["results"][0]["result"]["layout"] == "flat/1"
    asked = {"format": "pcm", "noise": "off"}
    pcm = running.http.post("/v1/reconstruct", files={"file": wav}, data=asked)
    assert pcm.headers["content-type"] == "audio/pcm;rate=24000;channels=1"
    query = running.http.post("/v1/reconstruct?format=pcm&noise=off", content=wav)
    assert pcm.content == query.content


@pytest.mark.parametrize(
    ("query", "fields", "said"),
    [
        ("", {"layouts": "flat"}, "no form field 'layouts': did you mean 'layout'?"),
        ("", {"zzz": "1"}, "no form field 'zzz': it takes base, channel, file, layout"),
        ("", {"base": "x"}, "base: Input should be a valid integer"),
        ("", {"layout": ["flat", "flat"]}, "'layout' comes twice"),
        ("?layout=flat", {"layout": "flat"}, "layout: given as a query parameter and as a form"),
    ],
)
def test_a_wrong_form_field_is_named(
    running: Running, wav: bytes, query: str, fields: dict[str, Any], said: str
) -> None:
    url = f"/v1/encode{query}"
    answer = running.http.post(url, data=fields, files={"file": ("a.wav", wav)})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_wrongly_named_file_is_told_what_its_part_is_called(running: Running, wav: bytes) -> None:
    answer = running.http.post("/v1/encode", files={"files": ("a.wav", wav)})
    assert "no form field 'files': did you mean 'file'?" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("filename=a.wav", "a.wav"),
        ("filename*=UTF-8''stra%C3%9Fe%22.wav", 'stra\u00dfe".wav'),
        ("filename=a.wav; filename*=UTF-8''b.wav", "a.wav"),
        ("x=1", ""),
    ],
)
def test_a_part_is_a_file_by_its_own_name(
    running: Running, wav: bytes, disposition: str, name: str
) -> None:
    """As axios sends a Buffer, and as older libraries send names that are not ASCII."""
    head = f'Content-Disposition: form-data; name="files"; {disposition}\r\n\r\n'
    body = f"--x\r\n{head}".encode() + wav + b"\r\n--x--\r\n"
    answer = running.http.post(
        "/v1/encode/batch",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    (item,) = answer.json()["results"]
    assert (item["name"], item["result"]["num_samples"]) == (name, 7200)


def test_a_files_name_in_place_of_the_file_is_told(running: Running) -> None:
    answer = curl("-F", "file=voice.wav", f"{running.url}/v1/encode")
    assert "-F file=@voice.wav" in answer["detail"]


NODE = """
const [url, path] = process.argv.slice(1);
const fs = require("fs");
(async () => {
  const form = new FormData();
  form.append("layout", "flat");
  form.append("file", new Blob([fs.readFileSync(path)]));
  const answer = await fetch(url, { method: "POST", body: form });
  console.log(await answer.text());
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_node_sends_a_form(running: Running, wav: bytes, tmp_path: Path) -> None:
    file = tmp_path / "voice.wav"
    file.write_bytes(wav)
    done = subprocess.run(
        ["node", "-e", NODE, f"{running.url}/v1/encode", str(file)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    expected = running.http.post("/v1/encode?layout=flat", content=wav).json()
    assert json.loads(done.stdout) == expected


def test_what_is_answered_as_pcm_can_be_sent_back(running: Running, wav: bytes) -> None:
    codes = running.http.post("/v1/encode", content=wav).json()
    for query in ("?format=pcm", "?format=pcm&stream=true"):
        answer = running.http.post(f"/v1/decode{query}", json=codes)
        headers = {"Content-Type": answer.headers["content-type"]}
        again = running.http.post("/v1/encode", content=answer.content, headers=headers)
        assert again.json()["num_samples"] == codes["num_samples"]

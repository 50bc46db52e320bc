"""The nginx block of docs/proxies.md, as nginx itself runs it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from snac_core.types import Samples
from tests.service.conftest import Running, Serve
from tests.support.waiting import wait_for

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
PAGE = Path(__file__).parents[3] / "docs" / "proxies.md"
AROUND = """
daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""
REQUESTS_A_MINUTE = 20

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def behind(
    serve: Serve, model_ref: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, str]]:
    """A service, and its URL at an nginx in front of it."""
    folder = tmp_path_factory.mktemp("nginx")
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(
            serve(
                model=model_ref,
                device="cpu",
                root_path="/snac",
                trusted_proxies="127.0.0.1",
                rate_limit_requests=REQUESTS_A_MINUTE,
            )
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        block = block.replace("127.0.0.1:8000", running.url.removeprefix("http://"))
        block = block.replace("listen 80;", f"listen 127.0.0.1:{port};")
        file = folder / "nginx.conf"
        file.write_text(AROUND.format(folder=folder, block=block))
        assert NGINX is not None
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(file)])
        stack.callback(process.wait)
        stack.callback(process.terminate)

        def listens() -> bool:
            assert process.poll() is None, "nginx has ended"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens)
        yield running, f"http://127.0.0.1:{port}/snac"


def client(address: str, url: str) -> httpx.Client:
    """Return a client of another address of this machine, which limits count for itself."""
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=url, transport=transport, timeout=300)


def test_pages_know_their_path(behind: tuple[Running, str]) -> None:
    running, url = behind
    with client("127.0.0.2", url) as http:
        for page in ("/", "/docs", "/docs/streams"):
            answer = http.get(page, headers={"Accept": "text/html"})
            files = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)"', answer.text)
            assert files
            for file in files:
                assert http.get(str(answer.url.join(file))).is_success, file
        assert http.get("/openapi.json").json()["servers"] == [{"url": "/snac"}]
    # A proxy may leave the path as it is, too.
    assert running.http.get("/snac/health/ready").json()["status"] == "ready"
    assert running.http.get("/snacks/health/ready").status_code == 404


def test_large_bodies_and_streamed_answers_pass(
    behind: tuple[Running, str],
    samples_of: Callable[..., Samples],
    wav_of: Callable[..., bytes],
) -> None:
    running, url = behind
    wav = wav_of(samples_of(15.0))
    assert len(wav) > 2**20, "no larger than what nginx takes by default"
    with client("127.0.0.3", url) as http:
        codes = http.post("/v1/encode", content=wav)
        assert codes.status_code == 200
        streamed = http.post("/v1/decode?stream=true", content=codes.content)
        assert streamed.headers["transfer-encoding"] == "chunked"
        direct = running.http.post("/v1/decode?stream=true", content=codes.content)
        assert streamed.content == direct.content


def test_a_page_of_the_same_site_may_stream(behind: tuple[Running, str]) -> None:
    _, url = behind
    socket_url = url.replace("http", "ws") + "/v1/stream/decode?layout=flat"
    with connect(socket_url, origin=Origin(url.removesuffix("/snac"))) as stream:
        assert json.loads(stream.recv())["type"] == "ready"
        stream.send(json.dumps([7, 300, 12, 4000, 81, 5, 19] * 2))
        stream.send('{"type": "end"}')
        said = [message for message in stream if isinstance(message, str)]
    assert json.loads(said[-1])["num_samples"] == 4096


def test_limits_are_each_clients_own_whoever_it_says_it_is(behind: tuple[Running, str]) -> None:
    _, url = behind
    with client("127.0.0.4", url) as http, client("127.0.0.5", url) as other:
        statuses = [
            http.get("/v1/models", headers={"X-Forwarded-For": f"9.9.9.{index}"}).status_code
            for index in range(REQUESTS_A_MINUTE + 2)
        ]
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert other.get("/v1/models").status_code == 200
        assert other.post("/v1/models/reload").status_code == 403

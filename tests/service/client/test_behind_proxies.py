"""What the client does with answers of proxies, which are no problems of the service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from snac_core.client import ProblemError, SnacClient

PROBLEM = "application/problem+json"


class OneBadAnswer(ThreadingHTTPServer):
    """Gives one answer of its own, and after it status 400."""

    status, content_type, asked = 500, "text/plain", 0


class Handler(BaseHTTPRequestHandler):
    server: OneBadAnswer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        first = self.server.asked == 1
        self.send_response(self.server.status if first else 400)
        self.send_header("Content-Type", self.server.content_type if first else PROBLEM)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[OneBadAnswer]:
    with OneBadAnswer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "content_type", "last"),
    [
        (500, "text/plain", 400),
        (502, "text/html", 400),
        (503, PROBLEM, 400),
        # The service's own error would come again.
        (500, PROBLEM, 500),
        (504, "text/html", 504),
    ],
)
def test_a_proxy_that_lost_its_replica_is_asked_again(
    proxy: OneBadAnswer, status: int, content_type: str, last: int
) -> None:
    proxy.status, proxy.content_type = status, content_type
    url = f"http://127.0.0.1:{proxy.server_port}"
    with SnacClient(url) as client, pytest.raises(ProblemError) as raised:
        client.encode(np.zeros(2400, np.float32), 24000)
    assert raised.value.status == last
    assert proxy.asked == (2 if last == 400 else 1)

"""The JavaScript client in Node, and its page in a browser."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

FOLDER = Path(__file__).parents[2] / "examples" / "javascript"
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium")


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_in_node(service_port: int, voice: Path, tmp_path: Path) -> None:
    output = tmp_path / "back.wav"
    program = [str(NODE), "--experimental-websocket", str(FOLDER / "node.mjs"), str(voice)]
    done = subprocess.run(
        [*program, str(output), f"http://127.0.0.1:{service_port}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert soundfile.info(output).frames == soundfile.info(voice).frames
    streamed = re.search(r"first audio after \d+ ms, (\d+) samples", done.stdout)
    assert streamed is not None, done.stdout
    assert int(streamed[1]) >= soundfile.info(voice).frames


@pytest.fixture
def page() -> Iterator[str]:
    """The URL of the page, from another origin than the service's."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map} | {
            ".mjs": "text/javascript"
        }

        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(FOLDER))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser(service_port: int, voice: Path, page: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        tab = browser.new_page()
        tab.goto(page)
        tab.fill("#url", f"http://127.0.0.1:{service_port}")
        tab.set_input_files("#file", str(voice))
        said = tab.get_by_text("first audio after")
        said.wait_for(timeout=60_000)
        assert re.match(r"\d+ tokens, first audio after \d+ ms", said.inner_text())
        browser.close()

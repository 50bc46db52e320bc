"""Chromium, driven by Playwright, on a page that the service itself serves."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.service.conftest import Running, Serve

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A microphone that beeps once a second, and no question whether the page may use it.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)

PATIENCE_MS = 60_000

# What Chromium prints of an answer that is a problem; the page shows those in its own words.
_REFUSED = re.compile(r"Failed to load resource|WebSocket connection .* failed")

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for a file's tests; while it runs, this thread has an event loop."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@dataclasses.dataclass
class Visit:
    """Pages opened in a context of their own, and what they asked of whom."""

    context: BrowserContext
    elsewhere: list[str] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)

    def open(self, running: Running, path: str = "/") -> Page:
        """Open a page of a server, and wait until it is ready."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        origin = urlsplit(running.url).netloc

        def asked(url: str) -> None:
            if urlsplit(url).scheme not in ("blob", "data") and urlsplit(url).netloc != origin:
                self.elsewhere.append(url)

        page.on("request", lambda request: asked(request.url))
        page.on("websocket", lambda stream: asked(stream.url))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on(
            "console",
            lambda message: (
                self.said.append(message.text)
                if message.type in ("error", "warning") and not _REFUSED.match(message.text)
                else None
            ),
        )
        page.goto(running.url + path)
        if path != "/docs":
            expect(page.locator("body[data-ready]")).to_be_attached()
        return page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A fresh context: its pages must keep to their origin, and the console must stay empty."""
    context = browser.new_context(
        permissions=["microphone", "clipboard-read", "clipboard-write"],
        # Nothing moves while it is clicked.
        reduced_motion="reduce",
    )
    visit = Visit(context)
    yield visit
    context.close()
    assert not visit.elsewhere, "the page asked another server"
    assert not visit.said, "the console of the browser is not empty"


@pytest.fixture(scope="module")
def starter(serve: Serve) -> Iterator[Running]:
    """The starter model: speech that can be looked at."""
    with serve(model="starter", device="cpu") as running:
        yield running


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where the run leaves its pictures."""
    folder = Path(__file__).parents[3] / "artifacts" / "page"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


TakeSample = Callable[[Page], None]


@pytest.fixture(scope="session")
def take_sample() -> TakeSample:
    """Press "Try the sample", and wait for its result."""

    def take(page: Page) -> None:
        page.get_by_role("button", name="Try the sample").click()
        expect(page.get_by_role("heading", name="sample.wav")).to_be_visible()

    return take

"""What the page says when something is wrong, keys, and models that are changed under it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, expect

from snac_core.config import SnacConfig
from snac_core.store import ModelStore
from tests.service.conftest import Running, Serve
from tests.service.page.conftest import TakeSample, Visit
from tests.support.codec_spy import CodecSpy

KEY = "a key for the page's tests"
ADMIN = "an admin key for the page's tests"


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: SnacConfig, tiny_weights: Any
) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("models"))
    store.publish(tiny_config, tiny_weights)
    return store


@pytest.fixture(scope="module")
def locked(serve: Serve, models: ModelStore) -> Iterator[Running]:
    """A server with keys and a store that is looked at on demand only."""
    with serve(
        model=str(models.root),
        device="cpu",
        api_key=KEY,
        admin_key=ADMIN,
        max_seconds=3.5,
        reload_interval=3600,
    ) as running:
        yield running


def enter_keys(page: Any, api: str = KEY, admin: str = "") -> None:
    """Fill the dialog, which must be open."""
    page.get_by_label("API key", exact=True).fill(api)
    page.get_by_label("Admin key").fill(admin)
    page.get_by_role("button", name="Use", exact=True).click()


def test_a_missing_key_is_asked_for_and_kept_in_memory_only(
    locked: Running, visit: Visit, take_sample: TakeSample
) -> None:
    page = visit.open(locked)
    expect(page.locator("#status")).to_contain_text("a key is needed")
    page.get_by_role("button", name="Try the sample").click()
    problem = page.locator("#problem")
    expect(problem).to_contain_text("A valid key is required")
    expect(problem).to_contain_text("Enter the key under Keys")
    problem.get_by_role("button", name="Enter a key").click()
    enter_keys(page)
    expect(problem).to_be_empty()
    take_sample(page)
    expect(page.locator("#code")).to_contain_text("X-Api-Key: $SNAC_API_KEY")
    assert KEY not in page.content()
    page.locator("#live-start").click()
    expect(page.locator("#live-said")).to_contain_text("First audio")
    stored = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert page.evaluate(stored) == '[{},{},""]'
    page.reload()
    expect(page.locator("#status")).to_contain_text("a key is needed")
    page.locator("#live-start").click()
    expect(page.locator("#problem")).to_contain_text("A valid key is required")


def test_audio_that_is_too_long_is_said_with_the_limit(
    locked: Running, visit: Visit, wav_of: Callable[..., bytes], samples_of: Any
) -> None:
    page = visit.open(locked)
    page.get_by_role("button", name="Keys", exact=True).click()
    enter_keys(page)
    expect(page.locator("#status")).to_contain_text("cpu")
    file = FilePayload(name="long.wav", mimeType="audio/wav", buffer=wav_of(samples_of(4.0)))
    page.locator("#file").set_input_files(file)
    problem = page.locator("#problem")
    expect(problem).to_contain_text("The audio lasts too long")
    expect(problem).to_contain_text("Cut the recording")
    expect(problem).to_contain_text("request ")


def test_reload_and_roll_back_show_what_is_served(
    locked: Running,
    visit: Visit,
    models: ModelStore,
    variant: Callable[..., Any],
    tiny_config: SnacConfig,
) -> None:
    page = visit.open(locked)
    page.get_by_role("button", name="Keys", exact=True).click()
    enter_keys(page)
    rows, problem = page.locator("#versions tr"), page.locator("#models-problem")
    expect(rows).to_have_count(1)
    first = locked.service.models.codec.version
    second = models.publish(tiny_config, variant(1))
    page.get_by_role("button", name="Reload").click()
    expect(problem).to_contain_text("A valid key is required")
    problem.get_by_role("button", name="Enter a key").click()
    enter_keys(page, admin=ADMIN)
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("#models-said")).to_contain_text(f"{second} is being served")
    expect(page.locator("#status")).to_contain_text(second)
    expect(rows).to_have_count(2)
    expect(page.locator("tr", has_text=second)).to_contain_text("serving")
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator("#models-said")).to_contain_text(f"{first} is being served")
    expect(page.locator("#status")).to_contain_text(first)
    models.publish(tiny_config, variant(2, "encoder"))
    page.get_by_role("button", name="Reload").click()
    expect(problem).to_contain_text("The version is not being served")
    expect(problem).to_contain_text("The old model still serves")


@pytest.mark.parametrize(
    ("text", "title", "advice"),
    [
        ("", "These are no tokens", "Paste the JSON"),
        ("hello world", "“hello” is no token", "Paste the JSON"),
        ('{"codes": [[1], [2', "The JSON cannot be read", "Paste the JSON"),
        ("[[1], [2, 3], [4, 5, 6, 4096]]", "level 2, index 3", "from 0 to 4095"),
        ("1 2 3", "The tokens do not follow their layout", "a token may be missing"),
        (
            json.dumps({"codes": [[1], [2, 3], [4, 5, 6, 7]], "token_space": "000000000000"}),
            "The codes belong to another token space",
            "made by another encoder",
        ),
    ],
)
def test_wrong_tokens_are_named(
    running: Running, visit: Visit, text: str, title: str, advice: str
) -> None:
    page = visit.open(running)
    page.get_by_role("button", name="Paste tokens").click()
    page.locator("#pasted").fill(text)
    page.get_by_role("button", name="Decode", exact=True).click()
    expect(page.locator("#problem")).to_contain_text(title)
    expect(page.locator("#problem")).to_contain_text(advice)


def test_what_is_no_recording_is_named(running: Running, visit: Visit, tmp_path: Path) -> None:
    page = visit.open(running)
    file = tmp_path / "notes.txt"
    file.write_text("This is no sound. " * 100)
    page.locator("#file").set_input_files(file)
    expect(page.locator("#problem")).to_contain_text("The audio cannot be read")
    expect(page.locator("#problem")).to_contain_text("WAV, FLAC, Ogg or MP3")


def test_an_overload_is_waited_out(
    serve: Serve,
    model_ref: str,
    visit: Visit,
    take_sample: TakeSample,
    wav_of: Callable[..., bytes],
    samples_of: Any,
) -> None:
    with serve(model=model_ref, device="cpu", max_queue_seconds=8.0, max_streams=1) as running:
        page = visit.open(running)
        watched = CodecSpy(running.service.models.codec)
        running.service.models._codec = watched  # type: ignore[assignment]
        watched.gate.clear()
        with ThreadPoolExecutor(1) as pool:
            try:
                wav = wav_of(samples_of(6.0))
                first = pool.submit(running.http.post, "/v1/encode", content=wav)
                assert watched.entered.wait(300)
                page.get_by_role("button", name="Try the sample").click()
                problem = page.locator("#problem")
                expect(problem).to_contain_text("The queue is full")
                expect(problem).to_contain_text("The service is busy")
                again = problem.get_by_role("button", name="Try again")
                expect(again).to_be_visible()
            finally:
                watched.gate.set()
            assert first.result(300).status_code == 200
        again.click()
        expect(page.get_by_role("heading", name="sample.wav")).to_be_visible()
        expect(problem).to_be_empty()


def test_a_service_that_is_gone_is_said(serve: Serve, model_ref: str, visit: Visit) -> None:
    with serve(model=model_ref, device="cpu") as running:
        page = visit.open(running)
    page.get_by_role("button", name="Paste tokens").click()
    page.locator("#pasted").fill("[[1], [2, 3], [4, 5, 6, 7]]")
    page.get_by_role("button", name="Decode", exact=True).click()
    expect(page.locator("#problem")).to_contain_text("The service does not answer")


def test_a_context_of_its_own_may_not_ask_another_server(running: Running, visit: Visit) -> None:
    page = visit.open(running)
    refused = page.evaluate(
        "() => fetch('http://127.0.0.1:9/').then(() => 'answered', (error) => error.name)"
    )
    assert refused == "TypeError"
    assert any("Content Security Policy" in words for words in visit.said)
    visit.said.clear()
    # Whether Chromium counts what its policy stops as a request is its own affair.
    visit.elsewhere.clear()

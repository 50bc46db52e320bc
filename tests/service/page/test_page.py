"""The page in a real browser: recordings, tokens, A/B, live streams, accessibility, pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from service.api.routes.page import FOLDER
from snac_core.codec import Codec
from snac_core.layouts import to_layout
from tests.service.conftest import Running
from tests.service.page.conftest import TakeSample, Visit


def levels_of(page: Page) -> list[list[int]]:
    """Return the tokens that the page holds."""
    levels: list[list[int]] = page.evaluate(
        "async () => (await import('/page/js/main.js')).page.result.levels"
    )
    return levels


def gains(page: Page) -> dict[str, float]:
    """Return how loud each of the two sounds is right now."""
    found: dict[str, float] = page.evaluate(
        "async () => (await import('/page/js/main.js')).player.gains()"
    )
    return found


def tokens_text(page: Page, layout: str) -> str:
    """Choose a layout, press Copy, and return the clipboard."""
    page.get_by_label("Layout").select_option(layout)
    page.locator("#copy-tokens").click()
    expect(page.locator("#copy-tokens")).to_have_text("Copied")
    text: str = page.evaluate("() => navigator.clipboard.readText()")
    return text


def test_a_file_becomes_pictures_tokens_and_sound(starter: Running, visit: Visit) -> None:
    page = visit.open(starter)
    page.locator("#file").set_input_files(FOLDER / "sample.wav")
    expect(page.get_by_role("heading", name="sample.wav")).to_be_visible()
    sent = starter.http.post("/v1/encode", content=(FOLDER / "sample.wav").read_bytes()).json()
    assert levels_of(page) == sent["codes"]
    figures = page.locator("#figures")
    for words in ("0.98 kbit/s", "82.0 /s", sent["model"]["version"], sent["model"]["token_space"]):
        expect(figures).to_contain_text(words)
    for stage in ("Encode: queue", "Encode: inference", "Decode: queue", "Decode: inference"):
        expect(figures).to_contain_text(re.compile(rf"{stage}\s*[\d.]+ ms"))
    # Every picture has ink: more than one colour.
    colours = page.evaluate(
        """() => [...document.querySelectorAll('#plots canvas')].map((canvas) => {
            const { width, height } = canvas;
            const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        })"""
    )
    assert len(colours) == 6
    assert min(colours) > 1
    page.get_by_role("button", name="Measure quality").click()
    expect(page.locator("#quality-figures")).to_contain_text(re.compile(r"STOI 0\.\d+"))


def test_a_dropped_file_is_taken(starter: Running, visit: Visit) -> None:
    page = visit.open(starter)
    page.evaluate(
        """async () => {
            const sound = await (await fetch('/page/sample.wav')).blob();
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([sound], 'dropped.wav', { type: 'audio/wav' }));
            document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true }));
        }"""
    )
    expect(page.get_by_role("heading", name="dropped.wav")).to_be_visible()


@pytest.mark.parametrize("media", [True, False], ids=["webm", "wav"])
def test_the_microphone_is_recorded(starter: Running, visit: Visit, media: bool) -> None:
    facts = starter.http.get("/page/service.json").json()
    if media and not facts["reads_browser_recordings"]:
        pytest.skip("the extra `media` is not installed")
    body = json.dumps({**facts, "reads_browser_recordings": media})
    visit.context.route("**/page/service.json", lambda route: route.fulfill(body=body))
    page = visit.open(starter)
    page.get_by_role("button", name="Record", exact=True).click()
    stop = page.get_by_role("button", name="Stop", exact=True)
    expect(stop).to_be_visible()
    expect(page.locator("#recorded")).to_contain_text(re.compile(r"^[1-9]\d*\.\d s"))
    stop.click()
    name = "recording.webm" if media else "recording.wav"
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    # The fake device beeps: what was drawn as input is not silence.
    peak = page.evaluate(
        """async () => (await import('/page/js/main.js')).page.result.input
            .reduce((most, sample) => Math.max(most, Math.abs(sample)), 0)"""
    )
    assert peak > 0.05
    assert len(levels_of(page)[0]) >= 10


def test_a_and_b_play_in_step_and_change_over_at_once(
    starter: Running, visit: Visit, take_sample: TakeSample
) -> None:
    page = visit.open(starter)
    take_sample(page)
    page.locator("h1").click()
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_text("Stop")
    assert gains(page) == {"input": 1, "output": 0}
    page.keyboard.press("b")
    expect(page.get_by_label("B reconstruction")).to_be_checked()
    page.wait_for_timeout(100)
    changed = gains(page)
    # Both still run, from the one moment at which they began.
    if changed:
        assert changed["output"] > 0.99
        assert changed["input"] < 0.01
    page.get_by_role("radio", name="A input").check()
    expect(page.locator("#play")).to_have_text("Play")
    expect(page.locator("#time")).to_have_text(re.compile(r"^3\.\d+ s"))


def test_tokens_are_read_out_and_play_their_span(
    starter: Running, visit: Visit, take_sample: TakeSample
) -> None:
    page = visit.open(starter)
    take_sample(page)
    levels = levels_of(page)
    picture, said = page.get_by_role("application"), page.locator("#token")
    picture.focus()
    expect(said).to_contain_text(f"level 0 · index 0 · code {levels[0][0]} · 0.000–0.085 s")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(said).to_contain_text(f"level 2 · index 10 · code {levels[2][10]} · 0.213–0.235 s")
    page.keyboard.press("Enter")
    expect(page.locator("#time")).to_have_text("0.235 s")
    box = picture.bounding_box()
    assert box is not None
    picture.hover(position={"x": box["width"] * 0.5, "y": 10})
    middle = len(levels[0]) // 2
    expect(said).to_contain_text(f"level 0 · index {middle} · code {levels[0][middle]}")
    picture.click(position={"x": 2, "y": box["height"] - 4})
    expect(said).to_contain_text(f"level 2 · index 0 · code {levels[2][0]}")
    expect(page.locator("#time")).to_have_text("0.021 s")


def test_tokens_leave_and_come_back_in_every_layout(
    starter: Running, visit: Visit, take_sample: TakeSample
) -> None:
    page = visit.open(starter)
    take_sample(page)
    levels = levels_of(page)
    codec: Codec = starter.service.models.codec
    texts = {}
    for layout in ("hierarchical", "flat", "orpheus", "mini-omni"):
        texts[layout] = tokens_text(page, layout)
        written = to_layout(levels, layout, config=codec.config)
        assert json.loads(texts[layout])["codes"] == written
    texts["custom"] = tokens_text(page, "custom")
    orpheus = json.loads(texts["orpheus"])["codes"]
    assert texts["custom"].startswith(f"<custom_token_{orpheus[0] - 128256}>")
    texts["numbers"] = " ".join(map(str, orpheus))
    texts["markers"] = f"<custom_token_4>{texts['custom']}<custom_token_2>"
    page.get_by_role("button", name="Paste tokens").click()
    for name, text in texts.items():
        page.locator("#pasted").fill(text)
        page.get_by_role("button", name="Decode", exact=True).click()
        expect(page.locator("#progress")).to_contain_text("Read as")
        expect(page.get_by_role("heading", name="Pasted tokens")).to_be_visible()
        assert levels_of(page) == levels, name
        page.evaluate("() => { document.getElementById('progress').textContent = ''; }")


def test_live_tokens_become_audio_while_they_are_sent(
    starter: Running, visit: Visit, take_sample: TakeSample
) -> None:
    page = visit.open(starter)
    take_sample(page)
    page.get_by_label("Pace").select_option("2")
    page.get_by_label("Look-ahead").select_option("1")
    start = page.locator("#live-start")
    start.click()
    expect(start).to_have_text("Stop")
    expect(page.locator("#first-audio")).to_have_text(re.compile(r"^\d+$"))
    expect(start).to_have_text("Stream the tokens")
    figures = page.locator("#live-figures")
    expect(figures).to_contain_text("252 of 252")
    expect(figures).to_contain_text(re.compile(r"Audio received\s*3\.07 s"))
    expect(page.locator("#code")).to_contain_text("stream=true")


def test_the_code_that_is_shown_runs(
    starter: Running, visit: Visit, take_sample: TakeSample, tmp_path: Path
) -> None:
    page = visit.open(starter)
    take_sample(page)
    (tmp_path / "sample.wav").write_bytes((FOLDER / "sample.wav").read_bytes())
    reconstruction = tmp_path / "reconstruction.wav"
    commands = {"curl": ["bash", "-ec"], "Python": [sys.executable, "-c"]}
    for language, command in commands.items():
        page.get_by_role("radio", name=language).check()
        code = page.locator("#code").inner_text()
        subprocess.run([*command, code], cwd=tmp_path, check=True, timeout=300)
        samples, rate = soundfile.read(reconstruction)
        assert (len(samples), rate) == (72000, 24000)
        reconstruction.unlink()
    page.get_by_role("radio", name="JavaScript").check()
    code = page.locator("#code").inner_text()
    page.locator("#file").evaluate("(field) => field.onchange = null")
    page.locator("#file").set_input_files(FOLDER / "sample.wav")
    sent = page.evaluate(f"async () => {{ {code}; return tokens.codes; }}")
    assert sent == levels_of(page)


def violations(page: Page) -> dict[str, Any]:
    """Return what axe finds, with the elements."""
    found = Axe().run(page).response["violations"]
    return {one["id"]: [node["html"] for node in one["nodes"]] for one in found}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_it_is_accessible_and_its_pictures_are_kept(
    starter: Running,
    browser: Browser,
    take_sample: TakeSample,
    artifacts: Path,
    scheme: Any,
    device: str,
) -> None:
    phone = device == "phone"
    context = browser.new_context(
        color_scheme=scheme,
        reduced_motion="reduce",
        device_scale_factor=2 if phone else 1,
        viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 900},
    )
    visit = Visit(context)
    page = visit.open(starter)
    assert violations(page) == {}
    take_sample(page)
    page.get_by_label("Pace").select_option("2")
    page.locator("#live-start").click()
    expect(page.locator("#live-said")).to_contain_text("First audio")
    page.locator("h1").click()
    page.screenshot(path=artifacts / f"{scheme}-{device}.png", full_page=True)
    assert violations(page) == {}
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= (390 if phone else 1280), "the page scrolls sideways"
    page.get_by_role("button", name="Keys", exact=True).click()
    assert violations(page) == {}
    page.get_by_role("button", name="Forget").click()
    page.get_by_role("button", name="Paste tokens").click()
    page.locator("#pasted").fill("none")
    page.get_by_role("button", name="Decode", exact=True).click()
    expect(page.locator("#problem")).to_contain_text("These are no tokens")
    assert violations(page) == {}
    streams = visit.open(starter, "/docs/streams")
    assert violations(streams) == {}
    streams.screenshot(path=artifacts / f"streams-{scheme}-{device}.png")
    context.close()
    assert not visit.elsewhere
    assert not visit.said


def test_the_sample_is_three_seconds_of_the_models_own_rate() -> None:
    samples, rate = soundfile.read(FOLDER / "sample.wav")
    assert (len(samples), rate) == (72000, 24000)
    assert np.abs(samples).max() > 0.1

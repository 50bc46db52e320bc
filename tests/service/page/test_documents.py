"""`/docs`, `/docs/streams` and the documents behind them show what the service does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect
from pydantic import BaseModel

from service.api.examples import BASE, COMMANDS
from service.api.routes.page import FOLDER
from service.websocket.asyncapi import MESSAGES
from service.websocket.replies import (
    DecodeDone,
    DecodeReady,
    EncodedCodes,
    EncodeDone,
    EncodeReady,
    StreamProblem,
)
from snac_core.types import Samples
from tests.service.conftest import Running, Serve
from tests.service.page.conftest import Visit
from tests.support.messages import END, hear, opened, say

ADMIN = "the admin key"


def test_the_api_is_shown_without_another_server(running: Running, visit: Visit) -> None:
    page = visit.open(running, "/docs")
    paths = running.http.get("/openapi.json").json()["paths"]
    expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))
    page.locator("#operations-decode-decode_v1_decode_post .opblock-summary-control").click()
    call = page.locator("#operations-decode-decode_v1_decode_post")
    expect(call).to_contain_text("curl --json")
    expect(call.locator(".examples-select")).to_contain_text("Orpheus-style language model")
    # The example is sent as it stands, and answered.
    call.get_by_role("button", name="Execute").click()
    expect(call.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_the_streams_are_shown_message_by_message(running: Running, visit: Visit) -> None:
    page = visit.open(running, "/docs/streams")
    document = running.http.get("/asyncapi.json").json()
    for channel in document["channels"].values():
        expect(page.get_by_role("heading", name=channel["address"])).to_be_visible()
    for name in document["components"]["messages"]:
        expect(page.locator(".message .name", has_text=name).first).to_be_visible()
    fields = page.get_by_role("region", name="Fields of decodeStart")
    expect(fields).to_contain_text("lookahead_frames")
    expect(fields).to_contain_text("as make the audio exact")


def test_every_reference_of_the_stream_document_leads_somewhere(running: Running) -> None:
    document = running.http.get("/asyncapi.json").json()
    references = set(re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(document)))
    assert len(references) > 20
    for reference in references:
        place: Any = document
        for name in reference.split("/"):
            place = place[name]


def test_streams_send_the_messages_that_their_document_describes(
    running: Running, samples_of: Any
) -> None:
    models: dict[str, dict[str, type[BaseModel]]] = {
        "decode": {"ready": DecodeReady, "done": DecodeDone, "problem": StreamProblem},
        "encode": {
            "ready": EncodeReady,
            "codes": EncodedCodes,
            "done": EncodeDone,
            "problem": StreamProblem,
        },
    }
    samples: Samples = samples_of(0.3)
    pcm = (samples * 32767).astype("<i2").tobytes()
    seen = set()
    for call, layout, messages in (
        ("decode", "orpheus", [[128266 + 4096 * place for place in range(7)], END]),
        ("decode", "flat", [[1, 2, 5000]]),
        ("encode", "hierarchical", [pcm, END]),
        ("encode", "mini-omni", [pcm, END]),
        ("encode", "flat", ["nonsense"]),
    ):
        with opened(running, call, {"layout": layout}) as stream:
            say(stream, *messages)
            _, said, _ = hear(stream)
        for message in said:
            models[call][message["type"]].model_validate(message)
            seen.add((call, message["type"]))
    assert seen == {(call, kind) for call, kinds in models.items() for kind in kinds}


def test_examples_of_stream_messages_are_valid(running: Running) -> None:
    document = running.http.get("/asyncapi.json").json()
    for name, message in document["components"]["messages"].items():
        payload = MESSAGES[name].payload
        if isinstance(payload, type):
            payload.model_validate(message["examples"][0]["payload"])


@pytest.fixture(scope="module")
def operated(serve: Serve, model_ref: str) -> Any:
    with serve(model=model_ref, device="cpu", admin_key=ADMIN) as running:
        yield running


@pytest.mark.parametrize("path", COMMANDS)
def test_the_command_of_each_call_works(operated: Running, path: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    shutil.copy(FOLDER / "sample.wav", tmp_path / "voice.wav")
    document = operated.http.get("/openapi.json").json()
    (call,) = document["paths"][path].values()
    command = call["x-codeSamples"][0]["source"]
    assert command in call["description"]
    command = command.replace(BASE, operated.url).replace("curl ", "curl -sS --fail-with-body ")
    done = subprocess.run(
        ["bash", "-ec", command], cwd=tmp_path, capture_output=True, timeout=300, check=False
    )
    if path == "/v1/models/rollback":
        # The store holds one version: there is none to return to.
        assert b"reload-failed" in done.stdout
        return
    assert done.returncode == 0, done.stdout + done.stderr
    made = [file for file in tmp_path.iterdir() if file.name != "voice.wav"]
    assert done.stdout or made
    assert all(file.stat().st_size for file in made)


def test_every_example_of_a_body_is_accepted(running: Running) -> None:
    document = running.http.get("/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        for call in methods.values():
            content = call.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                answer = running.http.post(path, json=example["value"])
                assert answer.status_code == 200, (path, example)
                assert "problem" not in answer.text[:200]
                tried += 1
    assert tried >= 5


def test_an_answer_with_warnings_is_posted_back_whole(running: Running, wav_of: Any) -> None:
    # Two channels of opposite sign cancel each other when they are averaged.
    tone = 0.3 * np.sin(np.arange(12000) / 10)
    answer = running.http.post("/v1/encode", content=wav_of(np.stack([tone, -tone], axis=1)))
    assert answer.json()["warnings"]
    assert running.http.post("/v1/decode", content=answer.content).status_code == 200

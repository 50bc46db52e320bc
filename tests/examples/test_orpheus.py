"""The bridge between a language model's server and the service, over real sockets."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from fastapi import FastAPI

import snac_core
from examples.orpheus.bridge import create_bridge
from examples.orpheus.fake_language_model import create_language_model, tokens_of
from snac_core import audio

ROOT = Path(__file__).parents[2]
Serving = Callable[[FastAPI], str]


@pytest.fixture(scope="module")
def tokens(voice: Path) -> list[str]:
    return tokens_of(voice)


@pytest.fixture
def bridge(serving: Serving, service_port: int, tokens: list[str]) -> str:
    language_model = serving(create_language_model(tokens))
    return serving(create_bridge(language_model, f"http://127.0.0.1:{service_port}"))


def test_speech_is_what_decoding_the_tokens_gives(bridge: str, voice: Path) -> None:
    answer = httpx.post(f"{bridge}/v1/audio/speech", json={"input": "Hello"}, timeout=120)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    spoken, rate = soundfile.read(io.BytesIO(answer.content))
    codec = snac_core.load("starter", "cpu")
    codes = codec.encode([audio.read(voice, codec.sample_rate)])
    [expected] = codec.decode(codes)
    assert rate == codec.sample_rate
    # The tokens alone say nothing of the recording's length: the last frame is whole.
    assert len(spoken) == codes[0].frames(codec.config) * codec.config.frame_samples
    np.testing.assert_allclose(spoken[: len(expected)], expected, atol=1e-4)


def test_say_tells_when_the_first_audio_came(bridge: str, tmp_path: Path) -> None:
    output = tmp_path / "speech.wav"
    program = [sys.executable, str(ROOT / "examples/orpheus/say.py"), "Good morning."]
    done = subprocess.run(
        [*program, "--bridge", bridge, "--output", str(output)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "first audio" in done.stdout
    assert soundfile.info(output).duration > 1.9


def test_an_unfinished_frame_is_left_out(
    serving: Serving, service_port: int, tokens: list[str]
) -> None:
    language_model = serving(create_language_model(tokens[: 7 * 10 + 3]))
    url = serving(create_bridge(language_model, f"http://127.0.0.1:{service_port}"))
    body = {"input": "Hello", "response_format": "pcm"}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=120)
    assert len(answer.content) == 2 * 10 * 2048


def test_a_lost_token_costs_its_frame(
    serving: Serving, service_port: int, tokens: list[str]
) -> None:
    lost = [*tokens[: 7 * 5 + 2], *tokens[7 * 5 + 3 :]]
    language_model = serving(create_language_model(lost))
    url = serving(create_bridge(language_model, f"http://127.0.0.1:{service_port}"))
    body = {"input": "Hello", "response_format": "pcm"}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=120)
    # And that of the last frame, which one token less does not fill.
    assert len(answer.content) == 2 * (len(tokens) // 7 - 2) * 2048


def test_what_goes_wrong_is_said(serving: Serving, service_port: int) -> None:
    snac = f"http://127.0.0.1:{service_port}"
    silent = serving(create_bridge(serving(create_language_model([])), snac))
    answer = httpx.post(f"{silent}/v1/audio/speech", json={"input": "Hello"}, timeout=120)
    assert (answer.status_code, answer.json()["detail"]) == (
        502,
        "the language model wrote no audio tokens",
    )
    absent = serving(create_bridge("http://127.0.0.1:9", snac))
    answer = httpx.post(f"{absent}/v1/audio/speech", json={"input": "Hello"}, timeout=120)
    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["detail"]

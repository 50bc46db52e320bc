"""Wrong tokens and ends in streams: what is sent before the problem, and what is skipped."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import soundfile

from service.websocket.pcm import PcmReader
from snac_core.codec import Codec
from snac_core.layouts import to_layout
from tests.support.messages import END, codes_of, hear, opened, say


def decoded(
    running: Any, start: dict[str, Any], *messages: Any
) -> tuple[np.ndarray[Any, Any], dict[str, Any], int | None]:
    """Return the audio of a stream, its last message and its close code."""
    with opened(running, "decode", {"format": "f32le", **start}) as stream:
        say(stream, *messages)
        data, said, code = hear(stream)
    return np.frombuffer(b"".join(data), "<f4"), said[-1], code


@pytest.mark.parametrize(("layout", "stop"), [("orpheus", 128258), ("flat", 4096)])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_audio_before_a_stop_token_is_sent_before_the_problem(
    running: Any, codec: Codec, layout: str, stop: int, one_by_one: bool
) -> None:
    codes = codes_of(codec, 6, seed=1)
    tokens = [*to_layout(codes.levels, layout, config=codec.config), stop]
    messages = [*tokens, tokens[0]] if one_by_one else [[*tokens, tokens[0]]]
    audio, last, code = decoded(running, {"layout": layout}, *messages)
    (whole,) = codec.decode([codes])
    assert len(audio) == len(whole)
    assert np.abs(audio - whole).max() < 1e-5
    problem = last["problem"]
    assert (problem["index"], problem["value"], code) == (42, stop, 1007)
    assert "it follows 6 whole frames" in problem["detail"]
    assert ("end-of-speech" in problem["detail"]) is (layout == "orpheus")


def test_an_incomplete_end_is_told_after_the_audio(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 5, seed=2)
    tokens = to_layout(codes.levels, "flat", config=codec.config)
    audio, last, code = decoded(running, {"layout": "flat"}, [*tokens, 1, 2], END)
    assert (len(audio), code) == (codes.num_samples, 1007)
    assert "2 tokens that are no whole frame" in last["problem"]["detail"]


def test_a_wrong_first_token_gives_a_problem_alone(running: Any) -> None:
    audio, last, code = decoded(running, {"layout": "orpheus"}, 128257)
    assert (len(audio), last["problem"]["index"], code) == (0, 0, 1007)


def test_skipped_frames_are_counted(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 6, seed=3)
    tokens = to_layout(codes.levels, "orpheus", config=codec.config)
    tokens[9] = 128009
    start = {"layout": "orpheus", "invalid": "skip"}
    audio, done, code = decoded(running, start, *tokens, 128258, END)
    assert (done["frames"], done["frames_skipped"], code) == (5, 1, 1000)
    assert len(audio) == done["num_samples"] == 5 * codec.config.frame_samples


def test_text_is_streamed_as_a_language_model_gives_it(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 4, seed=4)
    text = "".join(to_layout(codes.levels, "orpheus-text", config=codec.config))
    with opened(running, "decode", None, query="?layout=orpheus-text&format=f32le") as stream:
        for at in range(0, len(text), 11):
            stream.send(text[at : at + 11])
        say(stream, {"type": "tokens", "tokens": "\n"}, END)
        data, said, code = hear(stream)
    assert (said[-1]["num_samples"], code) == (codes.num_samples, 1000)
    assert len(b"".join(data)) == 4 * codes.num_samples
    body = {"codes": text, "layout": "orpheus-text", "incomplete": "drop"}
    cut = running.http.post("/v1/decode", json={**body, "codes": text[:-30]})
    assert cut.headers["x-num-samples"] == str(3 * codec.config.frame_samples)
    assert running.http.post("/v1/decode", json=body).status_code == 200


def test_a_decode_request_drops_an_incomplete_end_if_asked(running: Any) -> None:
    body = {"codes": [1, 2, 3, 4, 5, 6, 7, 8], "layout": "flat"}
    assert running.http.post("/v1/decode", json=body).status_code == 422
    for query, more in (("?incomplete=drop", {}), ("", {"incomplete": "drop"})):
        answer = running.http.post(f"/v1/decode{query}", json={**body, **more})
        assert answer.headers["x-num-samples"] == "2048"


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_telephone_encodings_are_read_as_libsndfile_reads_them(
    running: Any, tmp_path: Any, encoding: Any, subtype: str
) -> None:
    file = tmp_path / "all.raw"
    file.write_bytes(bytes(range(256)))
    raw = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": subtype}
    expected, _ = soundfile.read(file, dtype="float32", **raw)
    assert np.array_equal(PcmReader(encoding).read(bytes(range(256))), expected)
    start = {"encoding": encoding, "sample_rate": 8000, "layout": "flat"}
    with opened(running, "encode", start) as stream:
        say(stream, bytes(range(256)) * 32, END)
        _, said, code = hear(stream)
    assert (json.dumps(said[0]).count(encoding), said[-1]["num_samples"], code) == (1, 24576, 1000)

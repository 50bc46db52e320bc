"""Encoding streams, and streamed HTTP responses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from snac_core.audio import encode_bytes, read
from snac_core.codec import Codec
from snac_core.layouts import to_layout
from snac_core.streaming import StreamingEncoder
from tests.support.messages import END, LAYOUTS, codes_of, hear, opened, relaxed, say


def test_any_audio_in_any_pieces_has_the_codes_of_the_whole(
    running: Any, codec: Codec, wav_of: Any
) -> None:
    @relaxed
    @given(
        layout=st.sampled_from(LAYOUTS),
        encoding=st.sampled_from(["f32le", "s16le"]),
        rate=st.sampled_from([8000, 11025, 16000, 24000, 44100, 48000]) | st.integers(2000, 96000),
        seconds=st.floats(0.0, 1.3),
        sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=8),
    )
    @example("flat", "s16le", 24000, 0.0, [1])
    @example("flat", "s16le", 16000, 0.1, [1])
    def check(layout: str, encoding: str, rate: int, seconds: float, sizes: list[int]) -> None:
        length = max(round(rate * seconds), -(-rate // 24000))  # one is left at 24 kHz
        samples = np.random.default_rng(rate).uniform(-0.5, 0.5, length)
        if encoding == "f32le":
            pcm, subtype = samples.astype("<f4").tobytes(), "FLOAT"
        else:
            pcm, subtype = encode_bytes(samples.astype(np.float32), rate, "pcm"), "PCM_16"
        stored = np.frombuffer(pcm, "<f4" if encoding == "f32le" else "<i2")
        (expected,) = codec.encode([read(wav_of(stored, rate, subtype=subtype), 24000)])
        start = {"layout": layout, "encoding": encoding, "sample_rate": rate}
        with opened(running, "encode", start) as stream, ThreadPoolExecutor(1) as pool:
            sending = pool.submit(say, stream, *pieces(pcm, sizes), END)
            _, said, code = hear(stream)
            sending.result()
        assert code == 1000, said
        assert [said[0]["type"], said[-1]["type"]] == ["ready", "done"]
        parts = [message["codes"] for message in said[1:-1]]
        whole = to_layout(expected.levels, layout, config=codec.config)
        if isinstance(whole[0], list):
            joined: list[Any] = [list(chain(*lanes)) for lanes in zip(*parts, strict=True)]
        else:
            joined = list(chain(*parts))
        assert joined == whole
        assert said[-1]["num_samples"] == expected.num_samples
        assert said[-1]["frames"] == expected.levels[0].size

    check()


def pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Cut ``data`` into pieces of ``sizes`` bytes, over and over."""
    at = 0
    for size in cycle(sizes):
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


def test_a_message_of_many_seconds_is_taken_in_as_a_stream_may_hold_them(
    serve: Any,
    model_ref: str,
    codec: Codec,
    samples_of: Any,
    wav_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most, rate = 0.5, 2000
    samples = samples_of(4.0, 3)[::12]
    wav = wav_of(samples, rate)
    expected = codec.encode([read(wav, 24000)])[0]
    pushed: list[int] = []
    push = StreamingEncoder.push

    def noted(encoder: StreamingEncoder, part: Any) -> None:
        pushed.append(len(part))
        push(encoder, part)

    monkeypatch.setattr(StreamingEncoder, "push", noted)
    with serve(model=model_ref, device="cpu", stream_buffer_seconds=most) as running:
        pushed.clear()  # what it warmed up with
        start = {"layout": "hierarchical", "encoding": "f32le", "sample_rate": rate}
        with opened(running, "encode", start) as stream:
            say(stream, samples.astype("<f4").tobytes(), END)
            _, said, code = hear(stream)
    assert code == 1000
    assert sum(pushed) == len(samples)
    assert max(pushed) <= most * rate
    lanes = zip(*(message["codes"] for message in said[1:-1]), strict=True)
    assert [list(chain(*lane)) for lane in lanes] == [level.tolist() for level in expected.levels]


@pytest.mark.parametrize(
    ("start", "messages", "name"),
    [
        ({"sample_rate": 0}, [], "invalid-request"),
        ({"sample_rate": 10**9}, [], "unreadable-audio"),
        ({}, [b"\0\0\0", END], "malformed-body"),
        (
            {"encoding": "f32le"},
            [np.array([0.1, np.nan], "<f4").tobytes(), END],
            "unreadable-audio",
        ),
        ({}, [[1, 2]], "invalid-request"),
    ],
)
def test_audio_that_cannot_be_is_told(
    running: Any, start: dict[str, Any], messages: list[Any], name: str
) -> None:
    with opened(running, "encode", start) as stream:
        with contextlib.suppress(ConnectionClosed):
            say(stream, *messages)
        _, said, code = hear(stream)
    assert said[-1]["problem"]["type"] == f"urn:snac:problem:{name}"
    assert code == 1007


@pytest.mark.parametrize("media", ["audio/wav", "audio/pcm"])
def test_a_streamed_answer_has_the_samples_of_the_whole(
    running: Any, codec: Codec, media: str
) -> None:
    codes = codes_of(codec, 20, seed=8)
    body = {**codes.to_dict(), "num_samples": 40000, "seed": 3}
    whole = running.http.post("/v1/decode", json=body, headers={"Accept": media})
    with running.http.stream(
        "POST", "/v1/decode?stream=true", json=body, headers={"Accept": media}
    ) as answer:
        assert answer.headers["Content-Type"].split(";")[0] == media
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.headers["X-Num-Samples"] == "40000"
        assert answer.headers["X-Model-Version"] == codec.version
        parts = list(answer.iter_raw())
    made, expected = b"".join(parts), whole.content
    assert len(parts) > 4
    head = 44 if media == "audio/wav" else 0
    assert made[:head] == expected[:head]
    steps = np.frombuffer(made[head:], "<i2").astype(int) - np.frombuffer(expected[head:], "<i2")
    assert np.abs(steps).max() <= 1


def test_a_streamed_answer_refuses_what_it_cannot_stream(running: Any) -> None:
    body = {"codes": [[0], [0, 0], [0] * 4]}
    for media in ("audio/flac", "audio/ogg"):
        answer: httpx.Response = running.http.post(
            "/v1/decode?stream=true", json=body, headers={"Accept": media}
        )
        assert answer.status_code == 406
    wrong = running.http.post("/v1/decode?stream=true", json={"codes": [[0], [0, 4096], [0] * 4]})
    assert wrong.status_code == 422
    assert (wrong.json()["level"], wrong.json()["index"]) == (1, 1)

"""Streams over real sockets: what comes out is what the whole clip would give, and errors say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from snac_core.audio import encode_bytes
from snac_core.codec import Codec
from snac_core.codes import Codes
from snac_core.layouts import to_layout
from snac_core.types import Samples
from tests.support.messages import END, LAYOUTS, codes_of, hear, opened, relaxed, say


def decoded(
    running: Any, start: dict[str, Any], messages: Iterable[Any], end: dict[str, Any] = END
) -> tuple[Samples, dict[str, Any]]:
    with (
        opened(running, "decode", {"format": "f32le", **start}) as stream,
        ThreadPoolExecutor(1) as pool,
    ):
        sending = pool.submit(say, stream, *messages, end)
        data, said, code = hear(stream)
        sending.result()
    assert [message["type"] for message in said] == ["ready", "done"], said
    assert code == 1000
    return np.frombuffer(b"".join(data), "<f4"), said[-1]


def cut(tokens: list[Any], sizes: Iterable[int]) -> list[Any]:
    """Cut tokens, or each row of them, into messages of about ``sizes`` tokens."""
    rows = tokens if isinstance(tokens[0], list) else [tokens]
    width = len(rows[0])
    messages, at = [], [0] * len(rows)
    sizes = list(sizes)
    turn = 0
    while any(position < len(row) for position, row in zip(at, rows, strict=True)):
        part = []
        for index, row in enumerate(rows):
            size = sizes[turn % len(sizes)] * max(1, len(row) // width)
            part.append(row[at[index] : at[index] + size])
            at[index] += size
            turn += 1
        messages.append(part if isinstance(tokens[0], list) else part[0])
    return messages


def test_any_tokens_in_any_pieces_give_the_audio_of_the_whole(running: Any, codec: Codec) -> None:
    @relaxed
    @given(
        layout=st.sampled_from(LAYOUTS),
        frames=st.integers(1, 12),
        left_out=st.integers(0, 2047),
        start=st.fixed_dictionaries(
            {"seed": st.integers(0, 2**63 - 1), "noise": st.sampled_from(["seeded", "off"])}
        ),
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12) | st.just([1]),
    )
    def check(
        layout: str, frames: int, left_out: int, start: dict[str, Any], sizes: list[int]
    ) -> None:
        codes = codes_of(codec, frames, seed=left_out, left_out=left_out)
        (whole,) = codec.decode([codes], **start)
        tokens = to_layout(codes.levels, layout, config=codec.config)
        end = {**END, "num_samples": codes.num_samples}
        made, done = decoded(running, {"layout": layout, **start}, cut(tokens, sizes), end)
        assert made.shape == whole.shape
        assert np.abs(made - whole).max() <= 1e-5
        assert (done["num_samples"], done["frames"]) == (len(whole), frames)
        assert done["model"] == {"version": codec.version, "token_space": codec.token_space}

    check()


def test_one_token_a_message_and_any_base(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 5, seed=1)
    tokens = to_layout(codes.levels, "orpheus", config=codec.config, base=10)
    made, done = decoded(running, {"layout": "orpheus/1", "base": 10}, tokens)
    assert np.abs(made - codec.decode([codes])[0]).max() <= 1e-5
    assert done["tokens"] == len(tokens)
    spelled = [{"type": "tokens", "tokens": [token]} for token in tokens]
    again, _ = decoded(running, {"layout": "orpheus", "base": 10}, spelled)
    assert np.array_equal(made, again)
    one_by_one: list[Any] = []
    for index in range(20):
        for level, count in enumerate((1, 2, 4)):
            if index < 5 * count:
                part: list[list[int]] = [[], [], []]
                part[level] = [int(codes.levels[level][index])]
                one_by_one.append(part)
    third, _ = decoded(running, {}, one_by_one)
    assert np.array_equal(made, third)


def test_int32_messages_are_the_same_tokens(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 6, seed=2)
    whole = codec.decode([codes])[0]
    for layout in LAYOUTS:
        tokens = to_layout(codes.levels, layout, config=codec.config)
        if layout == "hierarchical":
            split = [np.reshape(level, (6, -1)) for level in tokens]
            turns = np.concatenate(split, axis=1)
        else:
            turns = np.array(tokens).T if layout == "mini-omni" else np.array(tokens)
        data = [turn.astype("<i4").tobytes() for turn in np.array_split(turns, 4)]
        made, _ = decoded(running, {"layout": layout}, data)
        assert np.abs(made - whole).max() <= 1e-5, layout


def test_int16_has_no_seams_either(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 10, seed=3)
    query = "?layout=flat&seed=5&noise=seeded"
    with opened(running, "decode", None, query=query) as stream:
        say(stream, *to_layout(codes.levels, "flat", config=codec.config), END)
        data, said, code = hear(stream)
    assert code == 1000
    made = np.frombuffer(b"".join(data), "<i2").astype(int)
    whole = encode_bytes(codec.decode([codes], seed=5)[0], codec.sample_rate, "pcm")
    # A sample that is 1e-7 from the middle of two steps may round either way.
    assert np.abs(made - np.frombuffer(whole, "<i2")).max() <= 1
    assert said[0]["format"] == "s16le"


def test_ready_names_model_and_geometry_and_audio_comes_before_the_end(
    running: Any, codec: Codec
) -> None:
    codes = codes_of(codec, 8, seed=4)
    with opened(running, "decode", {"layout": "flat"}) as stream:
        ready = json.loads(stream.recv(300))
        assert ready == {
            "type": "ready",
            "layout": "flat/1",
            "base": None,
            "sample_rate": 24000,
            "frame_samples": 2048,
            "tokens_per_frame": 7,
            "codes_per_frame": [1, 2, 4],
            "format": "s16le",
            "lookahead_samples": ready["lookahead_samples"],
            "model": {"version": codec.version, "token_space": codec.token_space},
        }
        say(stream, to_layout(codes.levels, "flat", config=codec.config))
        exact = 8 * 2048 - ready["lookahead_samples"]
        got = 0
        while got < exact:
            got += len(stream.recv(300)) // 2
        assert got == exact
        assert 4000 < ready["lookahead_samples"] <= 3 * 2048
        say(stream, END)
        data, said, code = hear(stream)
    assert got + len(b"".join(data)) // 2 == 8 * 2048
    assert (said[0]["type"], code) == ("done", 1000)


def test_less_look_ahead_makes_audio_leave_earlier(running: Any, codec: Codec) -> None:
    tokens = to_layout(codes_of(codec, 2, seed=9).levels, "flat", config=codec.config)
    with opened(running, "decode", {"layout": "flat", "lookahead_frames": 0}) as stream:
        assert json.loads(stream.recv(300))["lookahead_samples"] == 0
        say(stream, tokens)
        got = 0
        while got < 2 * 2048:
            got += len(stream.recv(300)) // 2
        say(stream, END)
        data, said, code = hear(stream)
    assert (got, data, said[-1]["num_samples"], code) == (4096, [], 4096, 1000)


def test_num_samples_cut_the_end_wherever_they_are_said(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 4, seed=5)
    whole = codec.decode([codes])[0][:7000]
    tokens = [level.tolist() for level in codes.levels]
    for start, end in (({"num_samples": 7000}, END), ({}, {**END, "num_samples": 7000})):
        made, done = decoded(running, start, [tokens], end)
        assert done["num_samples"] == len(made) == 7000
        assert np.abs(made - whole).max() <= 1e-5


def test_a_frame_that_is_not_whole_is_refused_or_dropped(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 4, seed=6)
    tokens = to_layout(codes.levels, "orpheus", config=codec.config)
    short = Codes(
        tuple(level[: 3 * count] for level, count in zip(codes.levels, (1, 2, 4), strict=True)),
        6144,
        24000,
    )
    made, done = decoded(
        running, {"layout": "orpheus"}, [tokens[:25]], {**END, "incomplete": "drop"}
    )
    assert np.abs(made - codec.decode([short])[0]).max() <= 1e-5
    assert (done["frames"], done["tokens"]) == (3, 25)
    found, code = problem_of(running, {"layout": "orpheus"}, tokens[:25], END)
    assert code == 1007
    assert "4 tokens" in found["detail"]


def test_a_stream_without_tokens_has_no_audio(running: Any) -> None:
    made, done = decoded(running, {"layout": "mini-omni"}, [])
    assert len(made) == done["num_samples"] == 0


def problem_of(running: Any, start: dict[str, Any] | None, *messages: Any) -> tuple[Any, int]:
    with opened(running, "decode", start) as stream:
        with contextlib.suppress(ConnectionClosed):
            say(stream, *messages)
        _, said, code = hear(stream)
    assert said[-1]["type"] == "problem"
    assert code is not None
    return said[-1]["problem"], code


def test_a_wrong_token_is_named_where_it_stands_in_the_stream(running: Any, codec: Codec) -> None:
    codes = codes_of(codec, 6, seed=7)
    tokens = to_layout(codes.levels, "orpheus", config=codec.config)
    tokens[17] = 128266 + 7
    found, code = problem_of(running, {"layout": "orpheus"}, *tokens)
    assert code == 1007
    assert found["type"] == "urn:snac:problem:invalid-layout"
    assert (found["index"], found["value"], found["status"]) == (17, 128273, 422)
    assert found["legal"] == f"{128266 + 3 * 4096}..{128266 + 4 * 4096 - 1}"
    assert found["instance"] == "/v1/stream/decode"
    levels = [[1, 2], [3, 4, 5, 6], [7] * 8]
    found, _ = problem_of(running, {}, levels, [[], [9, 4096], []])
    assert (found["level"], found["index"], found["value"]) == (1, 5, 4096)
    rows = to_layout(codes.levels, "mini-omni", config=codec.config)
    rows[3][8] = 152000 + 3 * 4160 + 4097
    found, _ = problem_of(running, {"layout": "mini-omni"}, *cut(rows, [3]))
    assert (found["level"], found["index"]) == (3, 8)


@pytest.mark.parametrize(
    ("start", "messages", "name", "code"),
    [
        (None, [[1, 2, 3]], "invalid-request", 1007),
        (None, [b"\1\2\3\4"], "invalid-request", 1007),
        ({"layout": "oggle"}, [], "invalid-layout", 1007),
        ({"layuot": "flat"}, [], "invalid-request", 1007),
        ({"format": "mp3"}, [], "invalid-request", 1007),
        ({"layout": "flat", "base": 3}, [], "invalid-layout", 1007),
        ({"token_space": "another"}, [], "token-space", 1008),
        ({"layout": "flat"}, ["seven"], "invalid-layout", 1007),
        ({"layout": "flat"}, [[1.5]], "invalid-layout", 1007),
        ({"layout": "flat"}, [[True]], "invalid-layout", 1007),
        ({"layout": "flat"}, [{"type": "token", "tokens": [1]}], "invalid-request", 1007),
        ({"layout": "flat"}, [b"\1\2\3"], "invalid-layout", 1007),
        ({"layout": "flat"}, [{**END, "num_samples": 0}], "invalid-request", 1007),
        ({}, [[[1], [2]]], "invalid-layout", 1007),
        ({}, [[[1] * 2000, [], []]], "invalid-layout", 1007),
        ({"layout": "flat"}, [[0] * 7, {**END, "num_samples": 2049}], "invalid-codes", 1007),
    ],
)
def test_what_cannot_be_is_told_and_the_stream_closed(
    running: Any, start: dict[str, Any] | None, messages: list[Any], name: str, code: int
) -> None:
    found, closed = problem_of(running, start, *messages)
    assert found["type"] == f"urn:snac:problem:{name}", found
    assert closed == code
    assert set(found) >= {"title", "status", "detail", "instance", "request_id"}


def test_text_that_is_not_json_is_told(running: Any) -> None:
    with opened(running, "decode", {}) as stream:
        stream.send("{")
        _, said, code = hear(stream)
    assert said[-1]["problem"]["type"] == "urn:snac:problem:malformed-body"
    assert code == 1007

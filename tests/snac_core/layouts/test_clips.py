from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core.config import SNAC_24KHZ, SNAC_32KHZ, SnacConfig
from snac_core.errors import CodesError, LayoutError
from snac_core.layouts import LAYOUTS, find_layout, from_layout, to_layout
from snac_core.layouts.clips import depth_first

THREE_LEVELS = ["hierarchical", "flat", "orpheus", "mini-omni"]
CASES = [(name, SNAC_24KHZ) for name in THREE_LEVELS]
CASES += [(name, SNAC_32KHZ) for name in ("hierarchical", "flat")]

# Frame 0 counts 10, 20, 21, 40..43; frame 1 counts 11, 22, 23, 44..47.
EXAMPLE = [[10, 11], [20, 21, 22, 23], [40, 41, 42, 43, 44, 45, 46, 47]]
EXAMPLE_FLAT = [10, 20, 40, 41, 21, 42, 43, 11, 22, 44, 45, 23, 46, 47]


seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def random_codes(config: SnacConfig, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    frames = random.integers(1, 6)
    edges = np.array([0, 1, config.codebook_size - 1])
    levels = []
    for count in config.codes_per_frame:
        codes = random.integers(0, config.codebook_size, frames * count)
        edge = random.random(codes.size) < 0.3
        codes[edge] = random.choice(edges, edge.sum())
        levels.append(codes.tolist())
    return levels


def constant_codes(config: SnacConfig, frames: int, code: int) -> list[list[int]]:
    return [[code] * (frames * count) for count in config.codes_per_frame]


def leaves(tokens: list[Any]) -> list[tuple[list[int], int]]:
    """Return (list, index) of every token, wherever it is nested."""
    rows = tokens if isinstance(tokens[0], list) else [tokens]
    return [(row, index) for row in rows for index in range(len(row))]


@pytest.mark.parametrize(("name", "config"), CASES)
@quick
@given(seed=seeds)
def test_every_layout_round_trips(name: str, config: SnacConfig, seed: int) -> None:
    levels = random_codes(config, seed)
    tokens = to_layout(levels, name, config=config)
    back = from_layout(tokens, name, config=config)
    assert [level.tolist() for level in back] == levels
    assert all(level.dtype == np.int32 for level in back)
    assert all(type(row[index]) is int for row, index in leaves(tokens))


@pytest.mark.parametrize(("name", "config"), CASES)
def test_code_0_is_never_dropped(name: str, config: SnacConfig) -> None:
    zeros = constant_codes(config, 2, 0)
    tokens = to_layout(zeros, name, config=config)
    assert [level.tolist() for level in from_layout(tokens, name, config=config)] == zeros


@pytest.mark.parametrize(("name", "config"), CASES)
def test_4096_is_never_written_as_a_code(name: str, config: SnacConfig) -> None:
    for level in range(len(config.vq_strides)):
        levels = constant_codes(config, 2, 0)
        levels[level][-1] = 4096
        with pytest.raises(CodesError, match=r"code 4096 is outside 0\.\.4095"):
            to_layout(levels, name, config=config)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_4096_is_never_read_as_a_code(name: str, config: SnacConfig) -> None:
    zeros = to_layout(constant_codes(config, 2, 0), name, config=config)
    ones = to_layout(constant_codes(config, 2, 1), name, config=config)
    places = [
        (row, index)
        for (row, index), (other, _) in zip(leaves(zeros), leaves(ones), strict=True)
        if row[index] != other[index]
    ]
    assert len(places) == 2 * sum(config.codes_per_frame)
    for row, index in places:
        row[index] += 4096
        with pytest.raises(CodesError, match=f"index {index}: .* {row[index]} is outside"):
            from_layout(zeros, name, config=config)
        row[index] -= 4096


@pytest.mark.parametrize(("name", "config"), CASES)
@quick
@given(seed=seeds, place=st.floats(0, 1, exclude_max=True), token=st.integers(-10, 200_000))
def test_a_changed_token_is_refused_or_another_code(
    name: str, config: SnacConfig, seed: int, place: float, token: int
) -> None:
    tokens = to_layout(random_codes(config, seed), name, config=config)
    places = leaves(tokens)
    row, index = places[int(place * len(places))]
    row[index] = token
    try:
        back = from_layout(tokens, name, config=config)
    except CodesError as error:
        named = f"index {index}" in str(error) and str(token) in str(error)
    else:
        named = to_layout(back, name, config=config) == tokens
    assert named


def test_the_documented_orders() -> None:
    def write(name: str, **options: Any) -> list[Any]:
        return to_layout(EXAMPLE, name, config=SNAC_24KHZ, **options)

    assert write("hierarchical") == EXAMPLE
    assert write("flat") == EXAMPLE_FLAT
    offsets = [0, 4096, 8192, 12288, 16384, 20480, 24576] * 2
    sums = [code + offset for code, offset in zip(EXAMPLE_FLAT, offsets, strict=True)]
    assert write("orpheus") == [128266 + token for token in sums]
    assert write("orpheus", base=0) == sums

    rows = write("mini-omni", base=0)
    assert [len(row) for row in rows] == [10] * 7
    assert rows[0] == [4097, 10, 11, 4096, 4097, 4097, 4097, 4097, 4097, 4097]
    assert rows[2] == [2 * 4160 + t for t in [4097] * 3 + [40, 44, 4096] + [4097] * 4]
    assert rows[6] == [6 * 4160 + t for t in [4097] * 7 + [43, 47, 4096]]
    assert write("mini-omni")[6][-1] == 152000 + 6 * 4160 + 4096


def test_depth_first_order_of_four_levels() -> None:
    levels = [[100], [200, 201], [300, 301, 302, 303], list(range(400, 408))]
    assert to_layout(levels, "flat", config=SNAC_32KHZ) == [
        *(100, 200, 300, 400, 401, 301, 402, 403),
        *(201, 302, 404, 405, 303, 406, 407),
    ]
    assert len(depth_first(SNAC_32KHZ)) == 15


def test_any_nesting_strides_have_a_flat_order() -> None:
    config = dataclasses.replace(SNAC_24KHZ, vq_strides=(6, 2, 2))
    levels = [[1, 2], [3, 4, 5, 6, 7, 8], [13, 14, 15, 16, 17, 18]]
    tokens = to_layout(levels, "flat", config=config)
    assert tokens == [1, 3, 13, 4, 14, 5, 15, 2, 6, 16, 7, 17, 8, 18]
    assert [part.tolist() for part in from_layout(tokens, "flat", config=config)] == levels


@pytest.mark.parametrize("name", THREE_LEVELS)
def test_names_with_and_without_version(name: str) -> None:
    assert find_layout(name) is find_layout(f"{name}/1") is LAYOUTS[name]
    assert LAYOUTS[name].versioned == f"{name}/1"


@pytest.mark.parametrize("name", ["flat/2", "Flat", "", "orpheus/", "moshi"])
def test_unknown_layouts_are_refused(name: str) -> None:
    with pytest.raises(LayoutError, match=r"unknown layout .* known: hierarchical/1, flat/1"):
        to_layout(EXAMPLE, name, config=SNAC_24KHZ)


@pytest.mark.parametrize("name", ["orpheus", "mini-omni"])
def test_layouts_of_three_levels_refuse_four(name: str) -> None:
    levels = [[0], [0] * 2, [0] * 4, [0] * 8]
    for call in (to_layout, from_layout):
        with pytest.raises(LayoutError, match=r"defined for strides \[4, 2, 1\]"):
            call(levels, name, config=SNAC_32KHZ)


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("flat", 5, "layout flat takes no base; 5 was given"),
        ("orpheus", -1, "base must be a whole number"),
        ("orpheus", True, "base must be a whole number"),
        ("mini-omni", 2**31, "base must be a whole number"),
        ("mini-omni", 1.0, "base must be a whole number"),
    ],
)
def test_wrong_bases_are_refused(name: str, base: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        to_layout(EXAMPLE, name, config=SNAC_24KHZ, base=base)


@pytest.mark.parametrize(
    ("name", "tokens", "message"),
    [
        ("flat", [], "0 tokens are not whole frames of 7"),
        ("flat", [0] * 13, "13 tokens are not whole frames of 7"),
        ("flat", [0] * 6 + [4096], r"index 6: token 4096 is outside 0\.\.4095.* position 6"),
        ("flat", [0.0] * 7, r"tokens, index 0: 0\.0 is not a whole number"),
        ("flat", [[0] * 7], "tokens, index 0: a list of length 7 is not a whole number"),
        ("flat", "0000000", "tokens must be a list of whole numbers, not a str"),
        (
            "orpheus",
            [128266] * 7,
            r"index 1: token 128266 is outside 132362\.\.136457, the codes of position 1",
        ),
        ("mini-omni", [[0]] * 6, "mini-omni tokens must be 7 rows"),
        ("mini-omni", [[0] * 8] * 7, "row 0 has 8 tokens; at least 9 make one frame"),
        ("mini-omni", [[156097] * 9] * 7, r"row 0, index 1: token 156097 is outside 152000\.\.156"),
        ("hierarchical", [[0], [0, 0], [0, 0, 0, 4096]], "level 2, index 3: code 4096 is outside"),
    ],
)
def test_wrong_tokens_are_named(name: str, tokens: Any, message: str) -> None:
    with pytest.raises(CodesError, match=message):
        from_layout(tokens, name, config=SNAC_24KHZ)


def test_rows_of_different_lengths_are_refused() -> None:
    rows = to_layout(EXAMPLE, "mini-omni", config=SNAC_24KHZ)
    rows[3] = rows[3][:-1]
    with pytest.raises(LayoutError, match="row 3 has 9 tokens and row 0 has 10"):
        from_layout(rows, "mini-omni", config=SNAC_24KHZ)


def test_a_stop_token_after_the_audio_is_called_so() -> None:
    tokens = to_layout(EXAMPLE, "orpheus", config=SNAC_24KHZ)
    for stop, said in (
        (128258, "128258 is the end-of-speech token of Orpheus: it follows 2 whole frames"),
        (128009, "128009 is no audio token, but like a language model's stop token"),
    ):
        with pytest.raises(LayoutError, match=rf"index 14: .*position 0; {said}") as raised:
            from_layout([*tokens, stop], "orpheus", config=SNAC_24KHZ)
        assert (raised.value.index, raised.value.value) == (14, stop)
    with pytest.raises(LayoutError, match=r"128257 is the start-of-speech token.*leave it out"):
        from_layout([128257, *tokens], "orpheus", config=SNAC_24KHZ)
    with pytest.raises(LayoutError, match=r"position 1$"):
        from_layout([tokens[0], *tokens], "orpheus", config=SNAC_24KHZ)


@pytest.mark.parametrize("name", THREE_LEVELS)
def test_an_incomplete_end_is_dropped_if_asked_for(name: str) -> None:
    tokens = to_layout(EXAMPLE, name, config=SNAC_24KHZ)
    if name == "hierarchical":
        tokens[2].pop()
    elif name == "mini-omni":
        tokens = [row[:9] for row in tokens]  # what row 6 has of frame 1 comes at step 8
        tokens[6] = tokens[6][:8]
    else:
        tokens.pop()
    with pytest.raises(CodesError):
        from_layout(tokens, name, config=SNAC_24KHZ)
    levels = from_layout(tokens, name, config=SNAC_24KHZ, incomplete="drop")
    assert [level.tolist() for level in levels] == [[10], [20, 21], [40, 41, 42, 43]]
    nothings: list[Any] = [[[], [], []], [], [[0]] * 7]
    for nothing in nothings:
        with pytest.raises(CodesError):
            from_layout(nothing, name, config=SNAC_24KHZ, incomplete="drop")


def test_a_dropped_end_leaves_whole_attention_windows() -> None:
    levels = [[0] * 40, [0] * 80, [0] * 160, [0] * 321]
    frames = SNAC_32KHZ.pad_multiple // SNAC_32KHZ.frame_samples
    read = from_layout(levels, "hierarchical", config=SNAC_32KHZ, incomplete="drop")
    assert len(read[0]) == 40 - 40 % frames
    flat = from_layout([0] * (15 * 40 + 1), "flat", config=SNAC_32KHZ, incomplete="drop")
    assert len(flat[0]) == 40 - 40 % frames


def test_rows_without_their_last_step_are_read() -> None:
    rows = [row[:-1] for row in to_layout(EXAMPLE, "mini-omni", config=SNAC_24KHZ)]
    assert [part.tolist() for part in from_layout(rows, "mini-omni", config=SNAC_24KHZ)] == EXAMPLE


def test_rows_that_are_not_read_are_told_why() -> None:
    rows = to_layout(EXAMPLE, "mini-omni", config=SNAC_24KHZ)

    def refused(rows: list[list[int]], said: str) -> None:
        with pytest.raises(LayoutError, match=said):
            from_layout(rows, "mini-omni", config=SNAC_24KHZ)

    refused([*rows, rows[0]], "must be 7 rows; the eighth, of text, is not sent")
    refused(to_layout(EXAMPLE, "mini-omni", config=SNAC_24KHZ, base=0)[:1] * 7, "have no offsets")
    early = [list(row) for row in rows]
    early[4][6:] = [152000 + 4 * 4160 + 4096] * (len(early[4]) - 6)
    refused(early, r"row 4, index 6: .*after \[2, 2, 2, 2, 1, 2, 2\] codes: incomplete=drop reads")
    read = from_layout(early, "mini-omni", config=SNAC_24KHZ, incomplete="drop")
    assert [len(level) for level in read] == [1, 2, 4]


def test_text_tokens_are_read_in_one_piece_or_many() -> None:
    tokens = to_layout(EXAMPLE, "orpheus-text", config=SNAC_24KHZ)
    assert tokens[:2] == ["<custom_token_20>", "<custom_token_4126>"]
    numbers = to_layout(EXAMPLE, "orpheus", config=SNAC_24KHZ, base=10)
    assert tokens == [f"<custom_token_{number}>" for number in numbers]
    for text in (tokens, "".join(tokens), " " + "\n".join(tokens)):
        read = from_layout(text, "orpheus-text", config=SNAC_24KHZ)
        assert [part.tolist() for part in read] == EXAMPLE
    for wrong, said in (
        (tokens[:-1], "13 tokens are not whole frames"),
        ("".join(tokens)[:-1], "ends in the middle of a token: '<custom_token_24633'"),
        (["<|audio|>", *tokens], "'<|audio|><custom_token_20>"),
        ([*tokens, "<custom_token_2>"], "2 is the end-of-speech token of Orpheus"),
        ([5], "not int; for numbers, use layout orpheus"),
    ):
        with pytest.raises(LayoutError, match=re.escape(said)):
            from_layout(wrong, "orpheus-text", config=SNAC_24KHZ)


def test_arrays_are_read_as_lists_are() -> None:
    tokens = to_layout(EXAMPLE, "mini-omni", config=SNAC_24KHZ)
    back = from_layout(np.array(tokens), "mini-omni", config=SNAC_24KHZ)
    assert [level.tolist() for level in back] == EXAMPLE

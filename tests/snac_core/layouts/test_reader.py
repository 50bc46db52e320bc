"""Tokens in any chunking are the clip's codes, and codes in any chunking are the clip's tokens."""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snac_core.config import SnacConfig
from snac_core.errors import CodesError, LayoutError
from snac_core.layouts import LAYOUTS, to_layout, token_reader, token_writer
from snac_core.layouts.lanes import MAX_LEAD_FRAMES
from tests.support.models import TINY, TINY_ATTENTION

CASES = [(TINY, name) for name in LAYOUTS] + [
    (TINY_ATTENTION, "hierarchical"),
    (TINY_ATTENTION, "flat"),
]
Sizes = st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(any)


def levels_of(config: SnacConfig, frames: int) -> tuple[Any, ...]:
    random = np.random.default_rng(frames)
    return tuple(
        random.integers(0, 4096, frames * count).astype(np.int32)
        for count in config.codes_per_frame
    )


@pytest.mark.parametrize(("config", "layout"), CASES)
@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 12), sizes=Sizes)
def test_any_chunking_reads_the_same_codes(
    config: SnacConfig, layout: str, frames: int, sizes: list[int]
) -> None:
    levels = levels_of(config, frames)
    tokens = to_layout(levels, layout, config=config)
    several = isinstance(tokens[0], list)
    lanes = tokens if several else [tokens]
    reader, taken, at = token_reader(layout, config), [], [0] * len(lanes)
    # Lanes go at different paces; every size comes to every lane some time.
    paces = [deque(sizes) for _ in lanes]
    for index, pace in enumerate(paces):
        pace.rotate(index)
    while any(start < len(lane) for start, lane in zip(at, lanes, strict=True)):
        parts = []
        for index, lane in enumerate(lanes):
            parts.append(lane[at[index] : at[index] + paces[index][0]])
            at[index] += paces[index][0]
            paces[index].rotate(-1)
        reader.push(parts if several else parts[0])
        got = reader.take()
        if got is not None:
            taken.append(got)
    reader.finish()
    for level, *read in zip(levels, *taken, strict=True):
        assert np.array_equal(level, np.concatenate(read))


@pytest.mark.parametrize(("config", "layout"), CASES)
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_any_chunking_writes_the_same_tokens(
    config: SnacConfig, layout: str, sizes: list[int]
) -> None:
    levels = levels_of(config, sum(sizes))
    writer, parts, at = token_writer(layout, config), [], 0
    for size in sizes:
        pieces = zip(levels, config.codes_per_frame, strict=True)
        parts.append(writer.write(tuple(level[at * n : (at + size) * n] for level, n in pieces)))
        at += size
    parts.append(writer.finish() or [[]] * len(parts[0]))
    whole = to_layout(levels, layout, config=config)
    if isinstance(whole[0], list):
        assert [list(chain(*lanes)) for lanes in zip(*parts, strict=True)] == whole
    else:
        assert list(chain(*parts[:-1])) == whole


@pytest.mark.parametrize("layout", ["hierarchical", "mini-omni"])
def test_one_lane_may_not_run_away_from_the_others(layout: str) -> None:
    reader = token_reader(layout, TINY)
    rows = to_layout(levels_of(TINY, MAX_LEAD_FRAMES + 2), layout, config=TINY)
    with pytest.raises(LayoutError, match=f"at most {MAX_LEAD_FRAMES}"):
        reader.push([rows[0], *([] for _ in rows[1:])])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({(0, 0): 0}, "row 0, index 0"),
        ({(2, 5): 4096}, "row 2"),
        ({(6, 10): 4095}, "row 6, index 10"),
        ({(3, 4): 4097}, "row 3, index 4"),
    ],
)
def test_rows_of_mini_omni_must_end_together(change: dict[tuple[int, int], int], said: str) -> None:
    rows = to_layout(levels_of(TINY, 3), "mini-omni", config=TINY)
    for (row, place), code in change.items():
        rows[row][place] = 152000 + 4160 * row + code
    reader = token_reader("mini-omni", TINY)
    steps = [[[row[place]] for row in rows] for place in range(len(rows[0]))]
    with pytest.raises(LayoutError, match=said):
        deque(map(reader.push, steps), maxlen=0)


def test_an_end_too_soon_says_what_is_missing() -> None:
    rows = to_layout(levels_of(TINY, 3), "mini-omni", config=TINY)
    reader = token_reader("mini-omni", TINY)
    reader.push([row[:5] for row in rows])
    with pytest.raises(LayoutError, match="5 of its 11 tokens"):
        reader.finish()
    flat = token_reader("flat", TINY)
    flat.push([1, 2, 3])
    with pytest.raises(LayoutError, match="3 tokens"):
        flat.finish()


def read_all(layout: str, pushes: list[Any], **how: Any) -> tuple[Any, list[int] | None]:
    """Return the reader and the first level's codes after pushing everything."""
    reader = token_reader(layout, TINY, **how)
    for push in pushes:
        reader.push(push)
    taken = reader.take()
    return reader, None if taken is None else taken[0].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_precedes_a_wrong_token_has_been_taken_in(layout: str) -> None:
    levels = levels_of(TINY, 4)
    tokens = to_layout(levels, layout, config=TINY)
    if layout == "orpheus-text":
        tokens[16] = "<custom_token_5>"
    elif isinstance(tokens[0], list):
        tokens[1][5] = -1  # frame 2 of hierarchical, frame 3 of mini-omni
    else:
        tokens[16] = -1
    reader = token_reader(layout, TINY)
    with pytest.raises(CodesError):
        reader.push(tokens)
    taken = reader.take()
    assert taken is not None
    frames = 3 if layout == "mini-omni" else 2
    assert all(
        np.array_equal(part, level[: frames * count])
        for part, level, count in zip(taken, levels, TINY.codes_per_frame, strict=True)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frame_with_a_wrong_token_is_skipped_and_counted(layout: str) -> None:
    levels = levels_of(TINY, 4)
    tokens = to_layout(levels, layout, config=TINY)
    if layout == "orpheus-text":
        tokens[16] = "<custom_token_5>"
    elif isinstance(tokens[0], list):
        tokens[1][5 if layout == "hierarchical" else 4] = -1
    else:
        tokens[16] = -1
    reader, first = read_all(layout, [tokens], invalid="skip")
    reader.finish()
    assert first == [*levels[0][:2].tolist(), int(levels[0][3])]
    assert (reader.frames_taken, reader.frames_skipped) == (3, 1)


def test_orpheus_finds_its_way_back_after_a_token_too_many_or_too_few() -> None:
    levels = levels_of(TINY, 6)
    tokens = to_layout(levels, "orpheus", config=TINY)
    first = levels[0].tolist()
    for changed, kept, skipped in (
        ([*tokens[:9], 128009, *tokens[9:]], [0, 2, 3, 4, 5], 1),  # within frame 1
        ([*tokens[:7], 128009, *tokens[7:]], [0, 1, 2, 3, 4, 5], 0),  # between frames
        ([*tokens[:9], *tokens[10:]], [0, 2, 3, 4, 5], 1),
        (tokens[:9] + tokens[14:], [0, 2, 3, 4, 5], 1),
        (tokens[3:], [1, 2, 3, 4, 5], 1),
        ([*tokens[:7], 5, *tokens[8:]], [0, 2, 3, 4, 5], 1),
    ):
        for pushes in ([changed], list(changed)):
            reader, taken = read_all("orpheus", pushes, invalid="skip")
            assert taken == [first[frame] for frame in kept]
            assert reader.frames_skipped == skipped
            assert reader.tokens == len(changed)


def test_text_may_be_cut_anywhere() -> None:
    levels = levels_of(TINY, 3)
    text = "\n".join(to_layout(levels, "orpheus-text", config=TINY))
    for size in (1, 5, 23):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        reader, taken = read_all("orpheus-text", pieces)
        reader.finish()
        assert taken == levels[0].tolist()
    reader, taken = read_all("orpheus-text", ["<|x|>", text, "<custom_token_2>"], invalid="skip")
    assert taken == levels[0].tolist()
    reader = token_reader("orpheus-text", TINY)
    reader.push(text + "<custom_tok")
    with pytest.raises(LayoutError, match="middle of a token"):
        reader.finish()


def test_the_last_step_of_mini_omni_may_be_missing() -> None:
    rows = to_layout(levels_of(TINY, 3), "mini-omni", config=TINY)
    reader, taken = read_all("mini-omni", [[row[:-1] for row in rows]])
    reader.finish()
    assert taken == levels_of(TINY, 3)[0].tolist()


def test_layouts_and_bases_are_checked_at_once() -> None:
    for layout, config, base in (
        ("oggle", TINY, None),
        ("flat", TINY, 5),
        ("orpheus", TINY_ATTENTION, None),
        ("orpheus", TINY, -1),
    ):
        with pytest.raises(LayoutError):
            token_reader(layout, config, base)
        with pytest.raises(LayoutError):
            token_writer(layout, config, base)


def test_a_code_out_of_range_is_counted_from_the_start_of_its_level() -> None:
    reader = token_reader("hierarchical", TINY)
    reader.push([[1], [2, 3], [4, 5, 6, 7]])
    reader.take()
    with pytest.raises(CodesError) as raised:
        reader.push([[], [], [0, 0, -1]])
    assert (raised.value.level, raised.value.index, raised.value.value) == (2, 6, -1)
    assert raised.value.legal == "0..4095"

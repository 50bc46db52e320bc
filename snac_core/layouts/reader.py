"""Tokens as they come in a stream: any layout, any chunking, into whole coarse frames.

A stream's tokens run in *lanes*: one for ``flat`` and ``orpheus``, one per level for
``hierarchical``, one per row for ``mini-omni``. Each token is checked against its place in
its lane when it comes, however few come at once; codes leave in whole coarse frames. What
may stand where is what `snac_core.layouts` says of whole clips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from snac_core.codes import whole_numbers
from snac_core.config import SnacConfig
from snac_core.errors import CodesError, LayoutError
from snac_core.layouts.clips import (
    MINI_OMNI_EOA,
    MINI_OMNI_PAD,
    find_layout,
    from_layout,
    to_layout,
)

Levels = tuple[npt.NDArray[np.int32], ...]
Tokens = npt.NDArray[np.int64]

MAX_LEAD_FRAMES = 1024
"""Coarse frames by which one lane may be ahead of another."""


class _Lane:
    """Codes of one lane that no whole frame has taken yet."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.seen = 0
        """Tokens that ever came, codes or not."""
        self._parts: deque[Tokens] = deque()
        self.held = 0

    @property
    def frames(self) -> int:
        return self.held // self.width

    def push(self, codes: Tokens) -> None:
        if codes.size:
            self._parts.append(codes)
            self.held += len(codes)

    def take(self, count: int) -> Tokens:
        taken = []
        self.held -= count
        while count:
            part = self._parts.popleft()
            if len(part) > count:
                self._parts.appendleft(part[count:])
                part = part[:count]
            taken.append(part)
            count -= len(part)
        return np.concatenate(taken)


class TokenReader(ABC):
    """Reads one stream of tokens; `token_reader` makes the one for a layout.

    Parameters
    ----------
    widths
        Codes of one coarse frame in each lane.
    """

    def __init__(self, config: SnacConfig, widths: tuple[int, ...]) -> None:
        self.config = config
        self.frames_taken = 0
        self._lanes = [_Lane(width) for width in widths]

    @property
    def frames(self) -> int:
        """Whole coarse frames that wait to be taken."""
        return min(lane.frames for lane in self._lanes)

    @property
    def tokens(self) -> int:
        """Tokens that came."""
        return sum(lane.seen for lane in self._lanes)

    @abstractmethod
    def push(self, tokens: object) -> None:
        """Take in tokens: a list, or for a layout of several lanes a list of one list each.

        Raises
        ------
        CodesError
            For a token that its place does not allow, with its lane as level, its index
            counted from the start of the stream, its value and the legal range.
        """

    def push_raw(self, data: bytes) -> None:
        """Take in little-endian int32 tokens; `push` says what is raised.

        With several lanes these are whole turns, each lane's tokens of a turn after those of
        the one before it: a coarse frame, level by level, or one token of each row.
        """
        turn = 4 * sum(self._turn)
        if len(data) % turn:
            raise LayoutError(
                f"{len(data)} bytes are not whole int32 tokens in turns of {turn // 4}"
            )
        turns = np.frombuffer(data, "<i4").astype(np.int64).reshape(-1, turn // 4)
        edges = np.cumsum(self._turn)[:-1]
        self._push_lanes([part.reshape(-1) for part in np.split(turns, edges, axis=1)])

    def take(self) -> Levels | None:
        """Return all whole coarse frames that have come, as levels; None for none."""
        count = self.frames
        if not count:
            return None
        self.frames_taken += count
        return self._levels([lane.take(count * lane.width) for lane in self._lanes])

    def finish(self) -> None:
        """Check that the stream may end here.

        Raises
        ------
        LayoutError
            If tokens are left over that are no whole frame.
        """
        whole = self.frames
        for index, lane in enumerate(self._lanes):
            left = lane.held - whole * lane.width
            if left:
                raise LayoutError(
                    f"{self._name(index)} ends with {left} tokens that are no whole frame; "
                    f"a frame has {lane.width}"
                )

    @property
    def _turn(self) -> tuple[int, ...]:
        return tuple(lane.width for lane in self._lanes)

    def _push_lanes(self, lanes: list[Tokens]) -> None:
        for index, values in enumerate(lanes):
            self._push_lane(index, values)
        frames = [lane.frames for lane in self._lanes]
        if max(frames) - min(frames) > MAX_LEAD_FRAMES:
            behind = int(np.argmin(frames))
            raise LayoutError(
                f"{self._name(behind)} is {max(frames) - min(frames)} coarse frames behind; "
                f"send the tokens of a frame together, at most {MAX_LEAD_FRAMES} apart"
            )

    @abstractmethod
    def _push_lane(self, index: int, values: Tokens) -> None:
        """Check tokens of one lane and take them in."""

    @abstractmethod
    def _levels(self, lanes: list[Tokens]) -> Levels:
        """Return whole frames, lane by lane, as levels."""

    def _name(self, lane: int) -> str:
        return "the stream" if len(self._lanes) == 1 else f"lane {lane}"

    def _split(self, tokens: object, what: str) -> list[Tokens]:
        """Return one array per lane from a list of lists."""
        count = len(self._lanes)
        if not isinstance(tokens, (list, tuple)) or len(tokens) != count:
            raise LayoutError(f"tokens must be {count} lists, one per {what}")
        return [
            self._whole(lane, values, f"{what} {index}, ")
            for index, (lane, values) in enumerate(zip(self._lanes, tokens, strict=True))
        ]

    @staticmethod
    def _whole(lane: _Lane, values: object, where: str) -> Tokens:
        since = f" after the first {lane.seen}" if lane.seen else ""
        return whole_numbers(values, f"{where}tokens{since}", LayoutError)


class _Flat(TokenReader):
    """Frames one after another, each position of a frame with an offset."""

    def __init__(self, config: SnacConfig, offsets: list[int]) -> None:
        super().__init__(config, (len(offsets),))
        self._offsets = np.array(offsets, np.int64)

    def push(self, tokens: object) -> None:
        (lane,) = self._lanes
        listed = tokens if isinstance(tokens, (list, tuple)) else [tokens]
        self._push_lanes([self._whole(lane, listed, "")])

    @property
    def _turn(self) -> tuple[int, ...]:
        return (1,)

    def _push_lane(self, index: int, values: Tokens) -> None:
        (lane,) = self._lanes
        positions = (lane.seen + np.arange(len(values))) % lane.width
        codes = values - self._offsets[positions]
        wrong = np.flatnonzero((codes < 0) | (codes >= self.config.codebook_size))
        if wrong.size:
            first = int(wrong[0])
            value, position = int(values[first]), int(positions[first])
            low = int(self._offsets[position])
            legal = f"{low}..{low + self.config.codebook_size - 1}"
            raise LayoutError(
                f"index {lane.seen + first}: token {value} is outside {legal}, the codes of "
                f"position {position}",
                index=lane.seen + first,
                value=value,
                legal=legal,
            )
        lane.seen += len(values)
        lane.push(codes)

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return from_layout(lanes[0], "flat", config=self.config)


class _Hierarchical(TokenReader):
    """A lane for each level."""

    def __init__(self, config: SnacConfig) -> None:
        super().__init__(config, config.codes_per_frame)

    def push(self, tokens: object) -> None:
        self._push_lanes(self._split(tokens, "level"))

    def _push_lane(self, index: int, values: Tokens) -> None:
        lane = self._lanes[index]
        wrong = np.flatnonzero((values < 0) | (values >= self.config.codebook_size))
        if wrong.size:
            first = int(wrong[0])
            value, legal = int(values[first]), f"0..{self.config.codebook_size - 1}"
            raise CodesError(
                f"level {index}, index {lane.seen + first}: code {value} is outside {legal}",
                level=index,
                index=lane.seen + first,
                value=value,
                legal=legal,
            )
        lane.seen += len(values)
        lane.push(values)

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return tuple(codes.astype(np.int32) for codes in lanes)

    def _name(self, lane: int) -> str:
        return f"level {lane}"


class _MiniOmni(TokenReader):
    """A lane for each row; its codes are late, and padding surrounds them."""

    def __init__(self, config: SnacConfig, offsets: list[int]) -> None:
        super().__init__(config, (1,) * len(offsets))
        self._offsets = offsets
        self._length: int | None = None
        """Coarse frames of the clip, once a row has ended."""

    def push(self, tokens: object) -> None:
        self._push_lanes(self._split(tokens, "row"))

    def finish(self) -> None:
        if not self.tokens:
            return
        if self._length is None:
            raise LayoutError(
                "no row has come to its end: the token eoa, "
                f"{self._offsets[0] + MINI_OMNI_EOA} in row 0, is missing"
            )
        total = self._length + len(self._lanes) + 1
        for row, lane in enumerate(self._lanes):
            if lane.seen < total:
                raise LayoutError(f"row {row} has {lane.seen} of its {total} tokens")

    def _push_lane(self, index: int, values: Tokens) -> None:
        lane, lead = self._lanes[index], index + 1
        places = lane.seen + np.arange(len(values)) - lead
        codes = values - self._offsets[index]
        if self._length is None:
            ends = np.flatnonzero((codes == MINI_OMNI_EOA) & (places >= 1))
            if ends.size:
                self._end(index, int(places[ends[0]]))
        length = self._length
        in_codes = (places >= 0) & (places < length if length is not None else True)
        low = np.where(in_codes, 0, MINI_OMNI_PAD)
        high = np.where(in_codes, self.config.codebook_size - 1, MINI_OMNI_PAD)
        if length is not None:
            low[places == length] = high[places == length] = MINI_OMNI_EOA
            total = length + len(self._lanes) + 1
            if lane.seen + len(values) > total:
                raise LayoutError(f"row {index} has more than its {total} tokens", level=index)
        wrong = np.flatnonzero((codes < low) | (codes > high))
        if wrong.size:
            first = int(wrong[0])
            at, value = lane.seen + first, int(values[first])
            legal = f"{low[first] + self._offsets[index]}..{high[first] + self._offsets[index]}"
            raise LayoutError(
                f"row {index}, index {at}: token {value} is outside {legal}",
                level=index,
                index=at,
                value=value,
                legal=legal,
            )
        lane.seen += len(values)
        lane.push(codes[in_codes])

    def _end(self, ending: int, length: int) -> None:
        self._length = length
        for row, lane in enumerate(self._lanes):
            if lane.seen - (row + 1) > length:
                raise LayoutError(
                    f"row {ending} ends after {length} codes, and row {row} has more", level=ending
                )

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return from_layout(np.stack(lanes, axis=1).reshape(-1), "flat", config=self.config)

    def _name(self, lane: int) -> str:
        return f"row {lane}"


def token_reader(layout: str, config: SnacConfig, base: int | None = None) -> TokenReader:
    """Return a reader of ``layout``, given with or without its version.

    Raises
    ------
    LayoutError
        For a layout that is unknown or not defined for ``config``, or a base out of place.
    """
    found = find_layout(layout)
    offsets = zero_frame(found.name, config, base)
    if found.name == "hierarchical":
        return _Hierarchical(config)
    if found.name == "mini-omni":
        return _MiniOmni(config, row_offsets(config, base))
    return _Flat(config, offsets)


def zero_frame(layout: str, config: SnacConfig, base: int | None) -> list[Any]:
    """Return a frame of zeros in ``layout``: its offsets."""
    frame = [[0] * count for count in config.codes_per_frame]
    return to_layout(frame, layout, config=config, base=base)


def row_offsets(config: SnacConfig, base: int | None) -> list[int]:
    """Return the token of code 0 in each row of mini-omni."""
    rows = zero_frame("mini-omni", config, base)
    return [row[index + 1] for index, row in enumerate(rows)]

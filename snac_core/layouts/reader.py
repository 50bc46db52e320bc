"""Tokens as they come in a stream: any layout, any chunking, into whole coarse frames.

A stream's tokens run in *lanes*: one for ``flat`` and ``orpheus``, one per level for
``hierarchical``, one per row for ``mini-omni``. Each token is checked against its place in
its lane when it comes, however few come at once; codes leave in whole coarse frames. What
may stand where is what `snac_core.layouts` says of whole clips.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

import numpy as np
import numpy.typing as npt

from snac_core.codes import check_range, whole_numbers
from snac_core.config import SnacConfig
from snac_core.errors import LayoutError
from snac_core.layouts.clips import MINI_OMNI_EOA, check_mini_omni, find_layout, from_layout
from snac_core.types import Levels

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

    def __init__(self, config: SnacConfig, offsets: Tokens) -> None:
        super().__init__(config, (len(offsets),))
        self._offsets = offsets

    def push(self, tokens: object) -> None:
        (lane,) = self._lanes
        listed = tokens if isinstance(tokens, (list, tuple)) else [tokens]
        self._push_lanes([self._whole(lane, listed, "")])

    @property
    def _turn(self) -> tuple[int, ...]:
        return (1,)

    def _push_lane(self, index: int, values: Tokens) -> None:
        (lane,) = self._lanes
        low = self._offsets[(lane.seen + np.arange(len(values))) % lane.width]
        high = low + self.config.codebook_size - 1
        check_range(values, low, high, first=lane.seen, width=lane.width, error=LayoutError)
        lane.seen += len(values)
        lane.push(values - low)

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
        where, high = f"level {index}, ", self.config.codebook_size - 1
        check_range(values, 0, high, where=where, noun="code", level=index, first=lane.seen)
        lane.seen += len(values)
        lane.push(values)

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return tuple(codes.astype(np.int32) for codes in lanes)

    def _name(self, lane: int) -> str:
        return f"level {lane}"


class _MiniOmni(TokenReader):
    """A lane for each row; its codes are late, and padding surrounds them."""

    def __init__(self, config: SnacConfig, offsets: Tokens) -> None:
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
        lane, offset = self._lanes[index], self._offsets[index]
        if self._length is None:
            places = lane.seen + np.arange(len(values)) - (index + 1)
            ends = np.flatnonzero((values == offset + MINI_OMNI_EOA) & (places >= 1))
            if ends.size:
                self._end(index, int(places[ends[0]]))
        if self._length is not None:
            total = self._length + len(self._lanes) + 1
            if lane.seen + len(values) > total:
                raise LayoutError(f"row {index} has more than its {total} tokens", level=index)
        codes = check_mini_omni(values, index, lane.seen, self._length, self._offsets, self.config)
        lane.seen += len(values)
        lane.push((values - offset)[codes])

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
    offsets = found.offsets(config, base)
    if found.name == "hierarchical":
        return _Hierarchical(config)
    return (_MiniOmni if found.name == "mini-omni" else _Flat)(config, offsets)

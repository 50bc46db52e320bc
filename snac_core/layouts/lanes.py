"""Tokens as they come in a stream: any layout, any chunking, into whole coarse frames.

A stream's tokens run in *lanes*: one for ``flat`` and ``orpheus``, one per level for
``hierarchical``, one per row for ``mini-omni``. Each token is checked against its place in
its lane when it comes, however few come at once; codes leave in whole coarse frames. What
may stand where is what `snac_core.layouts` says of whole clips.

A wrong token is an error, raised once what came before it has been taken in; or its frame is
skipped and counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

import numpy as np
import numpy.typing as npt

from snac_core.codes import whole_numbers
from snac_core.config import SnacConfig
from snac_core.errors import CodesError, LayoutError
from snac_core.types import Invalid, Levels

Tokens = npt.NDArray[np.int64]

MAX_LEAD_FRAMES = 1024
"""Coarse frames by which one lane may be ahead of another."""


class Lane:
    """Codes of one lane that no whole frame has taken yet."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.seen = 0
        """Tokens that ever came, codes or not."""
        self._parts: deque[Tokens] = deque()
        self.held = 0

    @property
    def frames(self) -> int:
        """Whole frames that wait."""
        return self.held // self.width

    def push(self, codes: Tokens) -> None:
        """Add codes."""
        if codes.size:
            self._parts.append(codes)
            self.held += len(codes)

    def drop_last(self, count: int) -> None:
        """Forget the last codes that were added."""
        rest = self.take(self.held)
        self.push(rest[: len(rest) - count])

    def take(self, count: int) -> Tokens:
        """Return the first codes that wait."""
        taken = [np.zeros(0, np.int64)]
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
    invalid
        ``skip`` drops each frame with a wrong token.
    """

    def __init__(self, config: SnacConfig, widths: tuple[int, ...], invalid: Invalid) -> None:
        self.config = config
        self.frames_taken = self.frames_skipped = 0
        self._skip = invalid == "skip"
        self._wrong: set[int] = set()
        """Frames to skip that wait, counted from the start of the stream."""
        self._lanes = [Lane(width) for width in widths]

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
            counted from the start of the stream, its value and the legal range. What came
            before it has been taken in.
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
        first, count = self.frames_taken + self.frames_skipped, self.frames
        lanes = [lane.take(count * lane.width) for lane in self._lanes]
        wrong = {frame for frame in self._wrong if frame < first + count}
        if wrong:
            self._wrong -= wrong
            kept = np.array([first + place not in wrong for place in range(count)])
            lanes = [lane[np.repeat(kept, len(lane) // max(count, 1))] for lane in lanes]
            self.frames_skipped += len(wrong)
            count -= len(wrong)
        if not count:
            return None
        self.frames_taken += count
        return self._levels(lanes)

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
        errors = []
        for index, values in enumerate(lanes):
            try:
                self._push_lane(index, values)
            except CodesError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        frames = [lane.frames for lane in self._lanes]
        if max(frames) - min(frames) > MAX_LEAD_FRAMES:
            behind = int(np.argmin(frames))
            raise LayoutError(
                f"{self._name(behind)} is {max(frames) - min(frames)} coarse frames behind; "
                f"send the tokens of a frame together, at most {MAX_LEAD_FRAMES} apart"
            )

    @abstractmethod
    def _push_lane(self, index: int, values: Tokens) -> None:
        """Check tokens of one lane and take them in, up to the first wrong one."""

    def _take_in(self, lane: Lane, values: Tokens, low: Tokens) -> Tokens:
        """Take in tokens of a lane in which all are codes; ``low`` are those of code 0.

        Returns
        -------
        What is left to be refused, from the first wrong token on; nothing if frames are skipped.
        """
        codes = values - low
        wrong = np.flatnonzero((codes < 0) | (codes >= self.config.codebook_size))
        left = values[:0]
        if len(wrong) and self._skip:
            self._wrong.update(((lane.seen + wrong) // lane.width).tolist())
            codes[wrong] = 0
        elif len(wrong):
            codes, left = codes[: wrong[0]], values[wrong[0] :]
        lane.seen += len(codes)
        lane.push(codes)
        return left

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
    def _whole(lane: Lane, values: object, where: str) -> Tokens:
        since = f" after the first {lane.seen}" if lane.seen else ""
        return whole_numbers(values, f"{where}tokens{since}", LayoutError)

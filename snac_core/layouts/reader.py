"""The readers of streams of tokens, one for each way in which layouts put codes into lanes."""

from __future__ import annotations

import numpy as np

from snac_core.codes import check_range
from snac_core.config import SnacConfig
from snac_core.errors import LayoutError
from snac_core.layouts import mini_omni
from snac_core.layouts.clips import find_layout, from_layout
from snac_core.layouts.frames import check_tokens, lowest
from snac_core.layouts.lanes import Lane, TokenReader, Tokens
from snac_core.layouts.text import TextTokens
from snac_core.types import Invalid, Levels


class _Flat(TokenReader):
    """Frames one after another, each position of a frame with an offset."""

    def __init__(self, config: SnacConfig, offsets: Tokens, invalid: Invalid) -> None:
        super().__init__(config, (len(offsets),), invalid)
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
        left = self._take_in(lane, values, lowest(len(values), self._offsets, lane.seen))
        if len(left):
            first = lane.seen
            lane.seen += len(left)
            check_tokens(left, self._offsets, self.config, first)

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return from_layout(lanes[0], "flat", config=self.config)


class _Orpheus(_Flat):
    """Frames whose tokens tell their position: after a wrong one, a frame begins at the next first.

    So a token too many or too few costs one frame, not all that follow.
    """

    _lost = _counted = False
    """Whether tokens are dropped up to the next frame, and whether a frame was counted for it."""

    def _push_lane(self, index: int, values: Tokens) -> None:
        (lane,) = self._lanes
        low = lowest(len(values), self._offsets, lane.held)
        right = (values >= low) & (values < low + self.config.codebook_size)
        if not self._skip:
            super()._push_lane(index, values)
        elif right.all() and not self._lost:
            lane.seen += len(values)
            lane.push(values - low)
        else:
            for value in values:
                self._push_one(lane, int(value))

    def _push_one(self, lane: Lane, value: int) -> None:
        codes = value - self._offsets
        found = np.flatnonzero((codes >= 0) & (codes < self.config.codebook_size))
        position = int(found[0]) if len(found) else None
        filled = lane.held % lane.width
        lane.seen += 1
        if self._lost and position and not self._counted:
            self.frames_skipped += 1
            self._counted = True
        elif not self._lost and position != filled:
            lane.drop_last(filled)
            self._lost, self._counted = True, filled > 0
            self.frames_skipped += self._counted
        if position == 0 or not self._lost:
            self._lost = False
            lane.push(codes[found])


class _Text(_Orpheus):
    """The same tokens as text, in any pieces."""

    def __init__(self, config: SnacConfig, offsets: Tokens, invalid: Invalid) -> None:
        super().__init__(config, offsets, invalid)
        self._text = TextTokens(skip=self._skip)

    def push(self, tokens: object) -> None:
        numbers, error = self._text.read(tokens)
        self._push_lanes([numbers])
        if error is not None:
            raise error

    def push_raw(self, data: bytes) -> None:
        raise LayoutError("tokens of orpheus-text are text; binary messages hold numbers: orpheus")

    def finish(self) -> None:
        self._text.finish()
        super().finish()


class _Hierarchical(TokenReader):
    """A lane for each level."""

    def __init__(self, config: SnacConfig, invalid: Invalid) -> None:
        super().__init__(config, config.codes_per_frame, invalid)

    def push(self, tokens: object) -> None:
        self._push_lanes(self._split(tokens, "level"))

    def _push_lane(self, index: int, values: Tokens) -> None:
        lane = self._lanes[index]
        left = self._take_in(lane, values, np.zeros_like(values))
        if len(left):
            where, high, first = f"level {index}, ", self.config.codebook_size - 1, lane.seen
            lane.seen += len(left)
            check_range(left, 0, high, where=where, noun="code", level=index, first=first)

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return tuple(codes.astype(np.int32) for codes in lanes)

    def _name(self, lane: int) -> str:
        return f"level {lane}"


class _MiniOmni(TokenReader):
    """A lane for each row; its codes are late, and padding surrounds them."""

    def __init__(self, config: SnacConfig, offsets: Tokens, invalid: Invalid) -> None:
        super().__init__(config, (1,) * len(offsets), invalid)
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
                f"{self._offsets[0] + mini_omni.EOA} in row 0, is missing"
            )
        total = self._length + len(self._lanes) + 1
        for row, lane in enumerate(self._lanes):
            # The last step, which some do not keep, has no codes.
            if lane.seen < total - 1:
                raise LayoutError(f"row {row} has {lane.seen} of its {total} tokens")

    def _push_lane(self, index: int, values: Tokens) -> None:
        lane, error = self._lanes[index], None
        if self._length is None:
            places = lane.seen + np.arange(len(values)) - (index + 1)
            ends = np.flatnonzero((values == self._offsets[index] + mini_omni.EOA) & (places >= 1))
            if ends.size:
                error = self._end(index, int(places[ends[0]]))
        if self._length is not None and error is None:
            total = self._length + len(self._lanes) + 1
            if lane.seen + len(values) > total:
                error = LayoutError(f"row {index} has more than its {total} tokens", level=index)
        first = lane.seen
        where = (index, first, self._length, self._offsets, self.config)
        codes, low, high = mini_omni.bounds(len(values), *where)
        wrong = np.flatnonzero((values < low) | (values > high))
        kept = len(values) if self._skip or not len(wrong) else int(wrong[0])
        if self._skip:
            bad = wrong[codes[wrong]]
            self._wrong.update((first + bad - (index + 1)).tolist())
            values = values.copy()
            values[bad] = low[bad]
        lane.seen += len(values)
        lane.push((values - self._offsets[index])[:kept][codes[:kept]])
        if error is not None and not self._skip:
            raise error
        if kept < len(values):
            mini_omni.check(values, *where)

    def _end(self, ending: int, length: int) -> LayoutError | None:
        """Note that a row ends; return the error if another one has more codes."""
        self._length = length
        for row, lane in enumerate(self._lanes):
            if lane.seen - (row + 1) > length:
                return LayoutError(
                    f"row {ending} ends after {length} codes, and row {row} has more", level=ending
                )
        return None

    def _levels(self, lanes: list[Tokens]) -> Levels:
        return from_layout(np.stack(lanes, axis=1).reshape(-1), "flat", config=self.config)

    def _name(self, lane: int) -> str:
        return f"row {lane}"


def token_reader(
    layout: str, config: SnacConfig, base: int | None = None, invalid: Invalid = "refuse"
) -> TokenReader:
    """Return a reader of ``layout``, given with or without its version.

    Parameters
    ----------
    invalid
        ``skip`` drops each frame with a token that its place does not allow, and counts it.

    Raises
    ------
    LayoutError
        For a layout that is unknown or not defined for ``config``, or a base out of place.
    """
    found = find_layout(layout)
    offsets = found.offsets(config, base)
    if found.name == "hierarchical":
        return _Hierarchical(config, invalid)
    if found.name == "mini-omni":
        return _MiniOmni(config, offsets, invalid)
    flat = {"orpheus": _Orpheus, "orpheus-text": _Text}.get(found.name, _Flat)
    return flat(config, offsets, invalid)

"""Layouts: the orders and offsets in which language models take codes, and the way back.

All but ``hierarchical`` put the codes of one coarse frame in depth-first order: a code, then
everything beneath it. For the strides [4, 2, 1] that is

    position   0      1       2       3         4         5         6
    code       c0[i]  c1[2i]  c2[4i]  c2[4i+1]  c1[2i+1]  c2[4i+2]  c2[4i+3]

where ``cl`` is level l and i the frame.

hierarchical/1
    One list per level, coarse to fine.
flat/1
    One list: the frames one after another, depth-first, bare codes.
orpheus/1
    As flat, with each token ``base + 4096 * position + code``; base is 128266 by default.
    For the strides [4, 2, 1] alone.
mini-omni/1
    Seven rows, one per position. With ``offset = base + 4160 * j``, row j of T frames is
    j + 1 times pad (``offset + 4097``), then T times ``offset + code``, then eoa
    (``offset + 4096``), then 6 - j times pad: all rows have T + 8 tokens. base is 152000 by
    default. For the strides [4, 2, 1] alone.

Reading is strict: a token that its place does not allow is an error, never skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from snac_core.codes import check_levels, check_range, whole_numbers
from snac_core.config import SnacConfig
from snac_core.errors import LayoutError
from snac_core.types import Levels

ORPHEUS_SPACING = 4096
MINI_OMNI_SPACING = 4160
MINI_OMNI_EOA = 4096
MINI_OMNI_PAD = 4097
MAX_BASE = 2**31 - 1

Frames = npt.NDArray[np.int64]
"""Codes in depth-first order, [frames, codes per frame]."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout; see the module's docstring for what each is.

    Parameters
    ----------
    name, version
        Together ``name/version``, as answers carry it.
    default_base
        Token id of code 0 at position 0; None where tokens are bare codes.
    spacing
        Token ids from one position to the next; 0 where tokens are bare codes.
    write, read
        Between levels and tokens; the third argument is `offsets`.
    """

    name: str
    version: int
    default_base: int | None
    spacing: int
    write: Callable[[Levels, SnacConfig, Frames], list[Any]]
    read: Callable[[Any, SnacConfig, Frames], Levels]

    @property
    def versioned(self) -> str:
        """The name with its version, such as ``orpheus/1``."""
        return f"{self.name}/{self.version}"

    def offsets(self, config: SnacConfig, base: int | None = None) -> Frames:
        """Return the token id of code 0 at each position of a coarse frame, [codes per frame].

        Raises
        ------
        LayoutError
            If the layout is not defined for ``config``, or for a base out of place.
        """
        if base is not None and self.default_base is None:
            raise LayoutError(f"layout {self.name} takes no base; {base!r} was given")
        base = base if base is not None else self.default_base or 0
        if isinstance(base, bool) or not isinstance(base, int) or not 0 <= base <= MAX_BASE:
            raise LayoutError(f"base must be a whole number in 0..{MAX_BASE}, not {base!r}")
        fits = config.codes_per_frame == (1, 2, 4) and config.codebook_size <= ORPHEUS_SPACING
        if self.spacing and not fits:
            raise LayoutError(
                f"layout {self.name} is defined for strides [4, 2, 1] and at most "
                f"{ORPHEUS_SPACING} codes, not {list(config.vq_strides)} and "
                f"{config.codebook_size}"
            )
        return base + self.spacing * np.arange(sum(config.codes_per_frame), dtype=np.int64)


def find_layout(name: str) -> Layout:
    """Return the layout called ``name``, given with or without its version.

    Raises
    ------
    LayoutError
        For a name or version that does not exist.
    """
    for layout in LAYOUTS.values():
        if name in (layout.name, layout.versioned):
            return layout
    known = ", ".join(layout.versioned for layout in LAYOUTS.values())
    raise LayoutError(f"unknown layout {name!r}; known: {known}")


def to_layout(
    codes_levels: object, layout: str, *, config: SnacConfig, base: int | None = None
) -> list[Any]:
    """Return codes in ``layout``, as plain lists of whole numbers.

    Parameters
    ----------
    codes_levels
        One list or array per level, coarse to fine.
    layout
        ``hierarchical``, ``flat``, ``orpheus`` or ``mini-omni``, with or without ``/1``.
    base
        Token id of code 0 at position 0, for the layouts that have one.

    Raises
    ------
    CodesError
        For codes that ``config`` could not have written.
    LayoutError
        For a layout that is unknown or not defined for ``config``, or a base out of place.
    """
    found, levels = find_layout(layout), check_levels(codes_levels, config)
    return found.write(levels, config, found.offsets(config, base))


def from_layout(
    tokens: object, layout: str, *, config: SnacConfig, base: int | None = None
) -> Levels:
    """Return the levels of codes, coarse to fine, int32; the inverse of ``to_layout``.

    Raises
    ------
    LayoutError
        For a token that its place does not allow, naming index, value and legal range;
        for incomplete frames; and as ``to_layout`` does.
    CodesError
        For ``hierarchical`` codes that ``config`` could not have written.
    """
    found = find_layout(layout)
    return found.read(tokens, config, found.offsets(config, base))


def depth_first(config: SnacConfig) -> list[tuple[int, int]]:
    """Return (level, index within the frame) for each position of a coarse frame."""
    counts = config.codes_per_frame

    def beneath(level: int, index: int) -> list[tuple[int, int]]:
        order = [(level, index)]
        if level + 1 < len(counts):
            fan = counts[level + 1] // counts[level]
            for child in range(index * fan, (index + 1) * fan):
                order += beneath(level + 1, child)
        return order

    return beneath(0, 0)


def _to_frames(levels: Levels, config: SnacConfig) -> Frames:
    split = [
        level.reshape(-1, count)
        for level, count in zip(levels, config.codes_per_frame, strict=True)
    ]
    columns = [split[level][:, index] for level, index in depth_first(config)]
    return np.stack(columns, axis=1).astype(np.int64)


def _from_frames(frames: Frames, config: SnacConfig) -> Levels:
    split = [np.empty((len(frames), count), dtype=np.int32) for count in config.codes_per_frame]
    for position, (level, index) in enumerate(depth_first(config)):
        split[level][:, index] = frames[:, position]
    return tuple(level.reshape(-1) for level in split)


def _write_hierarchical(levels: Levels, config: SnacConfig, offsets: Frames) -> list[Any]:
    return [level.tolist() for level in levels]


def _read_hierarchical(tokens: object, config: SnacConfig, offsets: Frames) -> Levels:
    return check_levels(tokens, config)


def _write_frames(levels: Levels, config: SnacConfig, offsets: Frames) -> list[Any]:
    tokens: list[int] = (_to_frames(levels, config) + offsets).reshape(-1).tolist()
    return tokens


def _read_frames(tokens: object, config: SnacConfig, offsets: Frames) -> Levels:
    flat, width = whole_numbers(tokens, "tokens", LayoutError), len(offsets)
    if not flat.size or flat.size % width:
        raise LayoutError(f"{flat.size} tokens are not whole frames of {width}")
    low = np.tile(offsets, flat.size // width)
    check_range(flat, low, low + config.codebook_size - 1, width=width, error=LayoutError)
    return _from_frames(flat.reshape(-1, width) - offsets, config)


def _write_mini_omni(levels: Levels, config: SnacConfig, offsets: Frames) -> list[Any]:
    frames = _to_frames(levels, config)
    width = len(offsets)
    rows = np.full((width, len(frames) + width + 1), MINI_OMNI_PAD, dtype=np.int64)
    for j in range(width):
        rows[j, j + 1 : j + 1 + len(frames)] = frames[:, j]
        rows[j, j + 1 + len(frames)] = MINI_OMNI_EOA
    tokens: list[list[int]] = (rows + offsets[:, None]).tolist()
    return tokens


def _read_mini_omni(tokens: object, config: SnacConfig, offsets: Frames) -> Levels:
    width = len(offsets)
    if not isinstance(tokens, (list, tuple, np.ndarray)) or len(tokens) != width:
        raise LayoutError(f"mini-omni tokens must be {width} rows")
    rows = [whole_numbers(row, f"row {j}", LayoutError) for j, row in enumerate(tokens)]
    length = len(rows[0])
    count = length - width - 1
    if count < 1:
        raise LayoutError(f"row 0 has {length} tokens; at least {width + 2} make one frame")
    frames = np.empty((count, width), dtype=np.int64)
    for j, row in enumerate(rows):
        if len(row) != length:
            raise LayoutError(f"row {j} has {len(row)} tokens and row 0 has {length}")
        check_mini_omni(row, j, 0, count, offsets, config)
        frames[:, j] = row[j + 1 : j + 1 + count] - offsets[j]
    return _from_frames(frames, config)


def check_mini_omni(
    tokens: Frames, row: int, first: int, frames: int | None, offsets: Frames, config: SnacConfig
) -> npt.NDArray[np.bool_]:
    """Check part of a row of mini-omni, and return which of its tokens are codes, [N].

    Parameters
    ----------
    tokens
        The part, [N].
    first
        Index in the row of the first of them.
    frames
        Coarse frames of the clip; None while that is not known.

    Raises
    ------
    LayoutError
        For a token that its place does not allow.
    """
    places = first + np.arange(len(tokens)) - (row + 1)
    codes = (places >= 0) & (places < frames if frames is not None else True)
    low = np.where(codes, 0, MINI_OMNI_PAD)
    high = np.where(codes, config.codebook_size - 1, MINI_OMNI_PAD)
    if frames is not None:
        low[places == frames] = high[places == frames] = MINI_OMNI_EOA
    low, high, where = low + offsets[row], high + offsets[row], f"row {row}, "
    check_range(tokens, low, high, where=where, level=row, first=first, error=LayoutError)
    return codes


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("hierarchical", 1, None, 0, _write_hierarchical, _read_hierarchical),
        Layout("flat", 1, None, 0, _write_frames, _read_frames),
        Layout("orpheus", 1, 128266, ORPHEUS_SPACING, _write_frames, _read_frames),
        Layout("mini-omni", 1, 152000, MINI_OMNI_SPACING, _write_mini_omni, _read_mini_omni),
    )
}

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

from snac_core.codes import check_levels, whole_numbers
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
    """

    name: str
    version: int
    default_base: int | None
    write: Callable[[Levels, SnacConfig, int], list[Any]]
    read: Callable[[Any, SnacConfig, int], Levels]

    @property
    def versioned(self) -> str:
        """The name with its version, such as ``orpheus/1``."""
        return f"{self.name}/{self.version}"


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
    found = find_layout(layout)
    return found.write(check_levels(codes_levels, config), config, _base(found, base))


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
    return found.read(tokens, config, _base(found, base))


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


def _write_hierarchical(levels: Levels, config: SnacConfig, base: int) -> list[Any]:
    return [level.tolist() for level in levels]


def _read_hierarchical(tokens: object, config: SnacConfig, base: int) -> Levels:
    return check_levels(tokens, config)


def _write_flat(levels: Levels, config: SnacConfig, base: int) -> list[Any]:
    tokens: list[int] = _to_frames(levels, config).reshape(-1).tolist()
    return tokens


def _read_flat(tokens: object, config: SnacConfig, base: int) -> Levels:
    return _read_frames(tokens, config, np.zeros(sum(config.codes_per_frame), dtype=np.int64))


def _write_orpheus(levels: Levels, config: SnacConfig, base: int) -> list[Any]:
    offsets = _offsets("orpheus", config, base, ORPHEUS_SPACING)
    tokens: list[int] = (_to_frames(levels, config) + offsets).reshape(-1).tolist()
    return tokens


def _read_orpheus(tokens: object, config: SnacConfig, base: int) -> Levels:
    return _read_frames(tokens, config, _offsets("orpheus", config, base, ORPHEUS_SPACING))


def _read_frames(tokens: object, config: SnacConfig, offsets: Frames) -> Levels:
    flat = whole_numbers(tokens, "tokens", LayoutError)
    width = len(offsets)
    if not flat.size or flat.size % width:
        raise LayoutError(f"{flat.size} tokens are not whole frames of {width}")
    frames = flat.reshape(-1, width) - offsets
    wrong = np.flatnonzero((frames < 0) | (frames >= config.codebook_size))
    if wrong.size:
        index = int(wrong[0])
        low, value = int(offsets[index % width]), int(flat[index])
        legal = f"{low}..{low + config.codebook_size - 1}"
        raise LayoutError(
            f"index {index}: token {value} is outside {legal}, the codes of position "
            f"{index % width}",
            index=index,
            value=value,
            legal=legal,
        )
    return _from_frames(frames, config)


def _write_mini_omni(levels: Levels, config: SnacConfig, base: int) -> list[Any]:
    offsets = _offsets("mini-omni", config, base, MINI_OMNI_SPACING)
    frames = _to_frames(levels, config)
    width = len(offsets)
    rows = np.full((width, len(frames) + width + 1), MINI_OMNI_PAD, dtype=np.int64)
    for j in range(width):
        rows[j, j + 1 : j + 1 + len(frames)] = frames[:, j]
        rows[j, j + 1 + len(frames)] = MINI_OMNI_EOA
    tokens: list[list[int]] = (rows + offsets[:, None]).tolist()
    return tokens


def _read_mini_omni(tokens: object, config: SnacConfig, base: int) -> Levels:
    offsets = _offsets("mini-omni", config, base, MINI_OMNI_SPACING)
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
        low = np.full(length, MINI_OMNI_PAD, dtype=np.int64)
        high = low.copy()
        low[j + 1 : j + 1 + count] = 0
        high[j + 1 : j + 1 + count] = config.codebook_size - 1
        low[j + 1 + count] = high[j + 1 + count] = MINI_OMNI_EOA
        codes = row - offsets[j]
        wrong = np.flatnonzero((codes < low) | (codes > high))
        if wrong.size:
            index = int(wrong[0])
            value = int(row[index])
            legal = f"{low[index] + offsets[j]}..{high[index] + offsets[j]}"
            raise LayoutError(
                f"row {j}, index {index}: token {value} is outside {legal}",
                level=j,
                index=index,
                value=value,
                legal=legal,
            )
        frames[:, j] = codes[j + 1 : j + 1 + count]
    return _from_frames(frames, config)


def _offsets(layout: str, config: SnacConfig, base: int, spacing: int) -> Frames:
    if config.codes_per_frame != (1, 2, 4) or config.codebook_size > ORPHEUS_SPACING:
        raise LayoutError(
            f"layout {layout} is defined for strides [4, 2, 1] and at most {ORPHEUS_SPACING} "
            f"codes, not {list(config.vq_strides)} and {config.codebook_size}"
        )
    return base + spacing * np.arange(sum(config.codes_per_frame), dtype=np.int64)


def _base(layout: Layout, base: int | None) -> int:
    if base is None:
        return layout.default_base or 0
    if layout.default_base is None:
        raise LayoutError(f"layout {layout.name} takes no base; {base!r} was given")
    if isinstance(base, bool) or not isinstance(base, int) or not 0 <= base <= MAX_BASE:
        raise LayoutError(f"base must be a whole number in 0..{MAX_BASE}, not {base!r}")
    return base


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("hierarchical", 1, None, _write_hierarchical, _read_hierarchical),
        Layout("flat", 1, None, _write_flat, _read_flat),
        Layout("orpheus", 1, 128266, _write_orpheus, _read_orpheus),
        Layout("mini-omni", 1, 152000, _write_mini_omni, _read_mini_omni),
    )
}

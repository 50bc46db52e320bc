"""The layout mini-omni: seven rows of codes, each later than the one before it.

With ``offset = base + 4160 * j``, row j of T frames is j + 1 times pad (``offset + 4097``), then T
times ``offset + code``, then eoa (``offset + 4096``), then 6 - j times pad: T + 8 tokens. The
published code does not keep the last step of a generation; such rows of T + 7 tokens are read too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snac_core.codes import check_range, whole_numbers
from snac_core.config import SnacConfig
from snac_core.errors import LayoutError
from snac_core.layouts.frames import Frames, from_frames, to_frames, whole_frames
from snac_core.types import Levels

SPACING = 4160
EOA = 4096
PAD = 4097

Bounds = tuple[npt.NDArray[np.bool_], Frames, Frames]


def write(levels: Levels, config: SnacConfig, offsets: Frames) -> list[list[int]]:
    """Return the rows of a clip."""
    frames = to_frames(levels, config)
    width = len(offsets)
    rows = np.full((width, len(frames) + width + 1), PAD, dtype=np.int64)
    for j in range(width):
        rows[j, j + 1 : j + 1 + len(frames)] = frames[:, j]
        rows[j, j + 1 + len(frames)] = EOA
    tokens: list[list[int]] = (rows + offsets[:, None]).tolist()
    return tokens


def read(tokens: object, config: SnacConfig, offsets: Frames, *, drop: bool) -> Levels:
    """Return the levels of a clip's rows.

    Parameters
    ----------
    drop
        Read the frames that are whole in every row, wherever the rows end.

    Raises
    ------
    LayoutError
        For a token that its place does not allow.
    """
    width = len(offsets)
    if not isinstance(tokens, (list, tuple, np.ndarray)) or len(tokens) != width:
        text = isinstance(tokens, (list, tuple, np.ndarray)) and len(tokens) == width + 1
        also = "; the eighth, of text, is not sent" if text else ""
        raise LayoutError(f"mini-omni tokens must be {width} rows{also}")
    rows = [whole_numbers(row, f"row {j}", LayoutError) for j, row in enumerate(tokens)]
    ends = [_end(row, j, offsets[j], config) for j, row in enumerate(rows)]
    if drop:
        count = whole_frames(min(ends), config)
        if not count:
            raise LayoutError(f"the rows hold {ends} codes: there is no whole frame")
    else:
        count = _length(rows, offsets)
    hint = _hint(rows, ends, offsets)
    frames = np.empty((count, width), dtype=np.int64)
    for j, row in enumerate(rows):
        part = row[: j + 1 + count] if drop else row
        check(part, j, 0, None if drop else count, offsets, config, hint)
        frames[:, j] = row[j + 1 : j + 1 + count] - offsets[j]
    return from_frames(frames, config)


def bounds(
    count: int, row: int, first: int, frames: int | None, offsets: Frames, config: SnacConfig
) -> Bounds:
    """Return which of ``count`` tokens of a row are codes, and the range that each must be in.

    Parameters
    ----------
    first
        Index in the row of the first of them.
    frames
        Coarse frames of the clip; None while that is not known.
    """
    places = first + np.arange(count) - (row + 1)
    codes = (places >= 0) & (places < frames if frames is not None else True)
    low = np.where(codes, 0, PAD)
    high = np.where(codes, config.codebook_size - 1, PAD)
    if frames is not None:
        low[places == frames] = high[places == frames] = EOA
    return codes, low + offsets[row], high + offsets[row]


def check(
    tokens: Frames,
    row: int,
    first: int,
    frames: int | None,
    offsets: Frames,
    config: SnacConfig,
    hint: str = "",
) -> npt.NDArray[np.bool_]:
    """Check part of a row, [N], and return which of its tokens are codes, [N]; see `bounds`.

    Raises
    ------
    LayoutError
        For a token that its place does not allow.
    """
    codes, low, high = bounds(len(tokens), row, first, frames, offsets, config)
    check_range(
        tokens,
        low,
        high,
        where=f"row {row}, ",
        level=row,
        first=first,
        hint=hint,
        error=LayoutError,
    )
    return codes


def _length(rows: list[Frames], offsets: Frames) -> int:
    """Return the number of frames in rows of one length, with the last step or without it."""
    width, length = len(offsets), len(rows[0])
    for j, row in enumerate(rows):
        if len(row) != length:
            raise LayoutError(
                f"row {j} has {len(row)} tokens and row 0 has {length}; incomplete=drop reads "
                "the frames that are whole in all rows"
            )
    ends = np.flatnonzero(rows[0] == offsets[0] + EOA)
    ends = ends[ends >= 2]
    if ends.size and length == ends[0] - 1 + width:
        return int(ends[0]) - 1
    count = length - width - 1
    if count < 1:
        raise LayoutError(f"row 0 has {length} tokens; at least {width + 2} make one frame")
    return count


def _end(row: Frames, index: int, offset: int, config: SnacConfig) -> int:
    """Return how many codes a row has before its first eoa or pad, or its end."""
    codes = row[index + 1 :] - offset
    ends = np.flatnonzero((codes == EOA) | (codes == PAD))
    return int(ends[0]) if ends.size else len(codes)


def _hint(rows: list[Frames], ends: list[int], offsets: Frames) -> str:
    """Say what is unusual of rows that are not read; "" if it is one token."""
    if offsets[0] > PAD and all(len(row) and 0 <= row.max() <= PAD for row in rows):
        return f"; the rows have no offsets: add {offsets[0]} + {SPACING} * row to each token"
    if len(set(ends)) > 1:
        return (
            f"; the rows end at different steps, after {ends} codes: incomplete=drop reads the "
            "frames that are whole in all"
        )
    return ""

"""Coarse frames as rows of codes in depth-first order, and the check of tokens against them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snac_core.codes import check_range
from snac_core.config import SnacConfig
from snac_core.errors import LayoutError
from snac_core.types import Levels

ORPHEUS_SPACING = 4096

Frames = npt.NDArray[np.int64]
"""Codes in depth-first order, [frames, codes per frame]."""

_ORPHEUS_MARKERS = {
    -9: "start-of-speech",
    -8: "end-of-speech",
    -7: "start-of-human",
    -6: "end-of-human",
    -5: "start-of-AI",
    -4: "end-of-AI",
    -3: "padding",
}
"""Special tokens of Orpheus, counted from its first audio token."""


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


def to_frames(levels: Levels, config: SnacConfig) -> Frames:
    """Return the codes of ``levels``, frame by frame."""
    split = [
        level.reshape(-1, count)
        for level, count in zip(levels, config.codes_per_frame, strict=True)
    ]
    columns = [split[level][:, index] for level, index in depth_first(config)]
    return np.stack(columns, axis=1).astype(np.int64)


def from_frames(frames: Frames, config: SnacConfig) -> Levels:
    """Return the levels of ``frames``, coarse to fine, int32."""
    split = [np.empty((len(frames), count), dtype=np.int32) for count in config.codes_per_frame]
    for position, (level, index) in enumerate(depth_first(config)):
        split[level][:, index] = frames[:, position]
    return tuple(level.reshape(-1) for level in split)


def whole_frames(count: int, config: SnacConfig) -> int:
    """Return how many of ``count`` frames fill whole attention windows; all without attention."""
    return count - count % (config.pad_multiple // config.frame_samples)


def lowest(count: int, offsets: Frames, first: int = 0) -> Frames:
    """Return the token of code 0 at each of ``count`` places from index ``first`` on."""
    return offsets[(first + np.arange(count)) % len(offsets)]


def check_tokens(tokens: Frames, offsets: Frames, config: SnacConfig, first: int = 0) -> None:
    """Check tokens that follow one another, [N], from index ``first`` of their stream on.

    Raises
    ------
    LayoutError
        For a token that its place does not allow; one that is no audio anywhere is called so.
    """
    low = lowest(len(tokens), offsets, first)
    high = low + config.codebook_size - 1
    wrong = np.flatnonzero((tokens < low) | (tokens > high))
    if len(wrong):
        hint = _what_it_is(int(tokens[wrong[0]]), first + int(wrong[0]), offsets, config)
        width = len(offsets)
        check_range(tokens, low, high, first=first, width=width, hint=hint, error=LayoutError)


def _what_it_is(value: int, index: int, offsets: Frames, config: SnacConfig) -> str:
    """Say of a token that is no audio at any position what it may be; "" of others."""
    codes = value - offsets
    if ((codes >= 0) & (codes < config.codebook_size)).any():
        return ""
    name = ""
    if len(offsets) > 1 and offsets[1] - offsets[0] == ORPHEUS_SPACING:
        name = _ORPHEUS_MARKERS.get(int(codes[0]), "")
    frames, rest = divmod(index, len(offsets))
    what = f"is the {name} token of Orpheus" if name else "is no audio token"
    if frames and not rest:
        like = "" if name else ", but like a language model's stop token"
        return f"; {value} {what}{like}: it follows {frames} whole frames, end there without it"
    return f"; {value} {what}: leave it out"

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
orpheus-text/1
    As orpheus, each token the string ``<custom_token_N>`` with the token as N; base is 10 by
    default. Read as a list of strings, or as one.
mini-omni/1
    Seven rows, one per position, each later than the one before: `snac_core.layouts.mini_omni`.
    base is 152000 by default. For the strides [4, 2, 1] alone.

Reading is strict: a token that its place does not allow is an error, never skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from snac_core.codes import check_levels, check_range, whole_numbers
from snac_core.config import SnacConfig
from snac_core.errors import LayoutError
from snac_core.layouts import mini_omni
from snac_core.layouts.frames import (
    ORPHEUS_SPACING,
    Frames,
    check_tokens,
    depth_first,
    from_frames,
    to_frames,
    whole_frames,
)
from snac_core.layouts.text import TextTokens, to_text
from snac_core.types import Incomplete, Levels

__all__ = ["LAYOUTS", "Layout", "depth_first", "find_layout", "from_layout", "to_layout"]

MAX_BASE = 2**31 - 1


class Reader(Protocol):
    """Reads the tokens of a clip."""

    def __call__(
        self, tokens: Any, config: SnacConfig, offsets: Frames, *, drop: bool
    ) -> Levels: ...


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
        Between levels and tokens; the third argument is `offsets`, and ``drop`` whether an
        incomplete end is dropped.
    """

    name: str
    version: int
    default_base: int | None
    spacing: int
    write: Callable[[Levels, SnacConfig, Frames], list[Any]]
    read: Reader

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
    """Return codes in ``layout``, as plain lists of whole numbers (of strings for text).

    Parameters
    ----------
    codes_levels
        One list or array per level, coarse to fine.
    layout
        One of `LAYOUTS`, with or without ``/1``.
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
    tokens: object,
    layout: str,
    *,
    config: SnacConfig,
    base: int | None = None,
    incomplete: Incomplete = "refuse",
) -> Levels:
    """Return the levels of codes, coarse to fine, int32; the inverse of ``to_layout``.

    Parameters
    ----------
    incomplete
        ``drop`` leaves out a last frame that is not whole, and frames that do not fill the last
        attention window of a model that has them: a language model may stop anywhere.

    Raises
    ------
    LayoutError
        For a token that its place does not allow, naming index, value and legal range;
        for incomplete frames; and as ``to_layout`` does.
    CodesError
        For ``hierarchical`` codes that ``config`` could not have written.
    """
    found = find_layout(layout)
    offsets = found.offsets(config, base)
    return found.read(tokens, config, offsets, drop=incomplete == "drop")


def _write_hierarchical(levels: Levels, config: SnacConfig, offsets: Frames) -> list[Any]:
    return [level.tolist() for level in levels]


def _read_hierarchical(
    tokens: object, config: SnacConfig, offsets: Frames, *, drop: bool
) -> Levels:
    counts = config.codes_per_frame
    if drop and isinstance(tokens, (list, tuple)) and len(tokens) == len(counts):
        levels = [whole_numbers(level, f"level {i}") for i, level in enumerate(tokens)]
        for i, level in enumerate(levels):
            high = config.codebook_size - 1
            check_range(level, 0, high, where=f"level {i}, ", noun="code", level=i)
        lengths = [len(level) // count for level, count in zip(levels, counts, strict=True)]
        frames = whole_frames(min(lengths), config)
        if frames:
            tokens = [level[: frames * count] for level, count in zip(levels, counts, strict=True)]
    return check_levels(tokens, config)


def _write_frames(levels: Levels, config: SnacConfig, offsets: Frames) -> list[Any]:
    tokens: list[int] = (to_frames(levels, config) + offsets).reshape(-1).tolist()
    return tokens


def _read_frames(tokens: object, config: SnacConfig, offsets: Frames, *, drop: bool) -> Levels:
    flat, width = whole_numbers(tokens, "tokens", LayoutError), len(offsets)
    check_tokens(flat, offsets, config)
    count = flat.size // width
    if drop:
        count = whole_frames(count, config)
    if not count or (flat.size % width and not drop):
        raise LayoutError(f"{flat.size} tokens are not whole frames of {width}")
    return from_frames(flat[: count * width].reshape(-1, width) - offsets, config)


def _write_text(levels: Levels, config: SnacConfig, offsets: Frames) -> list[Any]:
    return to_text(_write_frames(levels, config, offsets))


def _read_text(tokens: object, config: SnacConfig, offsets: Frames, *, drop: bool) -> Levels:
    text = TextTokens()
    numbers, error = text.read(tokens)
    if error is not None:
        check_tokens(numbers, offsets, config)
        raise error
    if not drop:
        text.finish()
    return _read_frames(numbers, config, offsets, drop=drop)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("hierarchical", 1, None, 0, _write_hierarchical, _read_hierarchical),
        Layout("flat", 1, None, 0, _write_frames, _read_frames),
        Layout("orpheus", 1, 128266, ORPHEUS_SPACING, _write_frames, _read_frames),
        Layout("orpheus-text", 1, 10, ORPHEUS_SPACING, _write_text, _read_text),
        Layout("mini-omni", 1, 152000, mini_omni.SPACING, mini_omni.write, mini_omni.read),
    )
}

"""What readers, codecs and writers hand on: audio of many clips in one array, and its codes."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

from snac_core.inference.windows import Window
from snac_core.types import Levels, Samples


@dataclasses.dataclass(frozen=True)
class Piece:
    """A clip, or a run of the windows of a long one.

    Parameters
    ----------
    clip
        Number of the clip in its group.
    samples
        How many of the batch's samples are the piece's.
    windows
        Counted from the piece's first sample; None for a whole clip.
    """

    clip: int
    samples: int
    windows: tuple[Window, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Fault:
    """A clip that gives no codes, and why.

    Parameters
    ----------
    clip
        Number of the clip in its group.
    reason
        In words.
    failed
        True if it is to be tried again; False if it was left out as the run asks.
    """

    clip: int
    reason: str
    failed: bool = True


@dataclasses.dataclass(frozen=True)
class Batch:
    """Audio to encode.

    Parameters
    ----------
    audio
        The pieces one after the other, float32, [N].
    pieces
        In the order of the clips.
    lengths
        Clips whose end has been reached, and how many samples each has.
    faults
        Clips that gave no audio.
    """

    audio: Samples
    pieces: tuple[Piece, ...]
    lengths: dict[int, int]
    faults: tuple[Fault, ...]


PieceCodes: TypeAlias = tuple[int, Levels]
"""Number of a clip in its group, and codes of each level: all of them, or the next run."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a batch came to.

    Parameters
    ----------
    codes
        In the order of the pieces.
    lengths
        Samples of the clips that ended in the batch.
    faults
        Clips that gave no codes.
    """

    codes: tuple[PieceCodes, ...]
    lengths: dict[int, int]
    faults: tuple[Fault, ...]

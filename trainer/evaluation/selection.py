"""Which recordings an evaluation takes, and which of them it keeps to listen to."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from snac_core.errors import AudioError
from snac_core.utils.commands import progress
from trainer.data.recordings import Clip, clip_of, group_of
from trainer.data.scan import audio_files
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

ALL = "all"
"""The one group where there are none, and the name of what holds for all."""


class Taken(NamedTuple):
    """A recording to be evaluated."""

    clip: Clip
    group: str


class Unreadable(NamedTuple):
    """A file that was left out."""

    path: str
    reason: str


def find(
    folders: Sequence[Path], group_by: str | None = None
) -> tuple[list[Taken], list[Unreadable]]:
    """Return the recordings under ``folders`` whose headers can be read, and the other files.

    Parameters
    ----------
    folders
        Searched in depth, one after the other; a file found twice counts once.
    group_by
        Finds a recording's group as `trainer.data.recordings.group_of` does; None makes one group.

    Raises
    ------
    TrainerError
        When a folder has no recordings, none can be read, or a name matches no group.
    """
    files = list(dict.fromkeys(path for folder in folders for path in audio_files(folder)))
    taken, unreadable = [], []
    for path in progress(files, desc="reading headers", unit="file", delay=2):
        group = group_of(path, group_by) if group_by else ALL
        try:
            taken.append(Taken(clip_of(path), group))
        except AudioError as error:
            log.warning("skipping %s: %s", path, error)
            unreadable.append(Unreadable(str(path), str(error)))
    if not taken:
        raise TrainerError(
            f"none of the {len(files)} recordings under {', '.join(map(str, folders))} can be read"
        )
    return taken, unreadable


def limited(taken: Sequence[Taken], seconds: float, longest: float) -> list[Taken]:
    """Return the first recordings of each group until it has ``seconds``, in the same order.

    A recording counts with at most ``longest`` seconds.
    """
    had: dict[str, float] = defaultdict(float)
    kept = []
    for one in taken:
        if had[one.group] < seconds:
            had[one.group] += min(one.clip.seconds, longest)
            kept.append(one)
    return kept


class SampleChoice:
    """Decides, recording by recording, which are kept to listen to.

    Each group gives as many as any other, or all it has; within a group they are spread
    evenly. In place of one that turns out to be unreadable, another of the group is kept that
    comes later. The same recordings always give the same choice.

    Parameters
    ----------
    taken
        The recordings, in the order in which they will come.
    count
        How many to keep.
    """

    def __init__(self, taken: Sequence[Taken], count: int) -> None:
        members: dict[str, list[Taken]] = defaultdict(list)
        for one in taken:
            members[one.group].append(one)
        quota = _shares([len(group) for group in members.values()], count)
        self._wanted: set[Path] = set()
        self._owed: dict[str, int] = defaultdict(int)
        for group, share in zip(members.values(), quota, strict=True):
            # The middles of as many equal parts as there are to be kept.
            picks = (math.floor((i + 0.5) * len(group) / share) for i in range(share))
            self._wanted.update(group[pick].clip.path for pick in picks)

    def wants(self, one: Taken) -> bool:
        """Return whether to keep this recording, which could be read."""
        if one.clip.path in self._wanted:
            return True
        if self._owed[one.group]:
            self._owed[one.group] -= 1
            return True
        return False

    def missed(self, one: Taken) -> None:
        """Note that this recording could not be read."""
        if one.clip.path in self._wanted:
            self._owed[one.group] += 1


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """Divide ``count`` over groups as evenly as their sizes allow; the first get what is left.

    With fewer to keep than there are groups, the groups that get one are spread evenly.
    """
    shares = [0] * len(sizes)
    if count < len(sizes):
        for i in range(count):
            shares[math.floor((i + 0.5) * len(sizes) / count)] = 1
        return shares
    left = min(count, sum(sizes))
    while left:
        for place, size in enumerate(sizes):
            if left and shares[place] < size:
                shares[place] += 1
                left -= 1
    return shares

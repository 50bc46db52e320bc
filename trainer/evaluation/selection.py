"""Selects the recordings of an evaluation, and those kept as audio samples."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from snac_core.errors import AudioError
from snac_core.utils.commands import progress
from trainer.data.recording_index import clips_in
from trainer.data.recordings import Clip, clip_of
from trainer.data.scan import audio_files
from trainer.data.shard_files import is_shards
from trainer.data.sources import recordings
from trainer.errors import TrainerError
from trainer.evaluation.groups import Groups

log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """A recording to be evaluated."""

    clip: Clip
    group: str


class Unreadable(NamedTuple):
    """A file that was left out."""

    path: str
    reason: str


def find(
    places: Sequence[str | Path], group_by: str | None = None
) -> tuple[list[Taken], list[Unreadable]]:
    """Return the recordings in ``places`` whose headers can be read, and the other files.

    Parameters
    ----------
    places
        Folders, searched in depth, manifests and shards, as ``val_data`` takes them, one after
        the other; a recording found twice counts once.
    group_by
        Finds a recording's group as `trainer.data.recordings.group_of` does. None takes the
        groups that the manifest of `prepare` has; without one, all are one group.

    Raises
    ------
    TrainerError
        When a place has no recordings, none can be read, or a name matches no group.
    """
    taken: dict[str, Taken] = {}
    unreadable: list[Unreadable] = []
    for place in places:
        groups = Groups(place, group_by)
        for found in _found(place):
            if isinstance(found, Unreadable):
                unreadable += [found] * (found not in unreadable)
            else:
                taken.setdefault(found.name, Taken(found, groups.of(found)))
    if not taken:
        raise TrainerError(
            f"none of the {len(unreadable)} recordings under {', '.join(map(str, places))} can be "
            f"read"
        )
    return list(taken.values()), unreadable


def _found(place: str | Path) -> Iterator[Clip | Unreadable]:
    if not Path(place).is_dir() or is_shards(place):
        for table in recordings(place):
            yield from clips_in(table)
        return
    for path in progress(audio_files(place), desc=f"reading {place}", unit="file", delay=2):
        try:
            yield clip_of(path)
        except AudioError as error:
            log.warning("skipping %s: %s", path, error)
            yield Unreadable(str(path), str(error))


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
        self._wanted: set[str] = set()
        self._owed: dict[str, int] = defaultdict(int)
        for group, share in zip(members.values(), quota, strict=True):
            # The middles of as many equal parts as there are to be kept.
            picks = (math.floor((i + 0.5) * len(group) / share) for i in range(share))
            self._wanted.update(group[pick].clip.name for pick in picks)

    def wants(self, one: Taken) -> bool:
        """Return whether to keep this recording, which could be read."""
        if one.clip.name in self._wanted:
            return True
        if self._owed[one.group]:
            self._owed[one.group] -= 1
            return True
        return False

    def missed(self, one: Taken) -> None:
        """Note that this recording could not be read."""
        if one.clip.name in self._wanted:
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

"""The group of a recording, such as its speaker."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snac_core.utils.filesystems import is_url
from trainer.data.lengths import MANIFEST
from trainer.data.recordings import Clip, group_of
from trainer.errors import TrainerError

ALL = "all"
"""The one group where there are none, and the name of what holds for all."""


class Groups:
    """The groups of the recordings in one place.

    Parameters
    ----------
    place
        A folder, a manifest, or shards.
    group_by
        As `trainer.data.recordings.group_of` takes it; None takes the groups of the manifest of
        `prepare` that the place is, or that lies beside it.

    Raises
    ------
    TrainerError
        When there is a manifest that cannot be read.
    """

    def __init__(self, place: str | Path, group_by: str | None) -> None:
        self.group_by = group_by
        self._of: dict[str, str] = {}
        """By path; of recordings in a shard, by the shard's path and their place in it."""
        path = _manifest(place)
        if group_by is None and path is not None:
            self._read(path)
        self._places: dict[str, int] = defaultdict(int)

    def of(self, clip: Clip) -> str:
        """Return the group of a recording; those of a shard must come in their order.

        Raises
        ------
        TrainerError
            When its file's name does not match ``group_by``.
        """
        if self.group_by is not None:
            return group_of(clip.path, self.group_by)
        name = os.path.abspath(clip.path)  # noqa: PTH100 - a link is not followed
        if clip.size:
            number = self._places[name]
            self._places[name] += 1
            name = f"{name}#{number}"
        return self._of.get(name, ALL)

    def _read(self, path: Path) -> None:
        try:
            if not {"path", "group"} <= set(pq.read_schema(path).names):
                return
            table = pq.read_table(path, columns=["path", "group"])
        except (OSError, pa.ArrowException) as error:
            raise TrainerError(f"{path} cannot be read: {error}") from error
        folder = os.path.abspath(path.parent)  # noqa: PTH100
        members = defaultdict[str, list[tuple[str, str]]](list)
        for name, group in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if group is None:
                continue
            shard, inside, member = name.partition("#")
            if inside:
                members[shard].append((member, group))
            else:
                self._of[os.path.join(folder, name)] = group  # noqa: PTH118
        for shard, found in members.items():
            for number, (_, group) in enumerate(sorted(found)):
                self._of[f"{os.path.join(folder, shard)}#{number}"] = group  # noqa: PTH118


def _manifest(place: str | Path) -> Path | None:
    """Return the manifest that a place is, or that `prepare` wrote beside it."""
    if is_url(place):
        return None
    path = Path(place)
    if path.suffix == ".parquet" and path.is_file():
        return path
    for folder in (path.parent, path.parent.parent):
        if (folder / MANIFEST).is_file():
            return folder / MANIFEST
    return None

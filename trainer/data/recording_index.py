"""An index of recordings in a memory-mapped file.

One process finds them and writes the file; any number of processes map it, and what they read of
it is in memory once for all of them. Millions of recordings take none of a process's own memory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.recordings import Clip

PAGE = 65536
"""Recordings that are in the memory of the process that finds them."""

SCHEMA = pa.schema(
    [
        ("path", pa.large_binary()),
        ("frames", pa.int64()),
        ("sample_rate", pa.int32()),
        ("weight", pa.float64()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("url", pa.large_binary()),
        ("row", pa.int64()),
    ]
)
"""The fields of a `Clip`."""


class RecordingIndex(Sequence[Clip]):
    """A list of `Clip`, mapped from the file that `write` made.

    Parameters
    ----------
    path
        The file. It may be removed when this has been made.

    Raises
    ------
    OSError
        When it cannot be mapped.
    """

    def __init__(self, path: Path) -> None:
        with pa.memory_map(os.fspath(path)) as file, pa.ipc.open_file(file) as table:
            self._table = table.read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        """Return recordings by number."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return next(clips_in(self._table.slice(range(len(self))[int(index)], 1)))

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """The length of each recording."""
        seconds: npt.NDArray[np.float64] = np.empty(len(self))
        done = 0
        for batch in self._table.select(["frames", "sample_rate"]).to_batches():
            frames, rates = (column.to_numpy(zero_copy_only=True) for column in batch.columns)
            np.divide(frames, rates, out=seconds[done : done + len(batch)])
            done += len(batch)
        return seconds

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How often each counts in an epoch."""
        weights: npt.NDArray[np.float64] = self._table.column("weight").to_numpy()
        return weights

    def digest(self) -> str:
        """Return a digest of the recordings' names, lengths and weights."""
        digest = hashlib.blake2b(digest_size=16)
        for batch in self._table.to_batches():
            # Folders may have moved.
            names = pc.replace_substring_regex(batch["path"], "^.*/", "")
            for column in (names, *(batch[name] for name in ("frames", "sample_rate", "weight"))):
                digest.update(column.buffers()[-1])
        return digest.hexdigest()


def clips_in(table: pa.Table) -> Iterator[Clip]:
    """Yield the recordings of a table that has `SCHEMA`."""
    for path, *rest, url, row in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        yield Clip._make((Path(os.fsdecode(path)), *rest, url.decode(), row))


def pages(clips: Iterable[Clip]) -> Iterator[pa.Table]:
    """Yield tables that have `SCHEMA` of recordings, some at a time."""
    left = iter(clips)
    while page := list(islice(left, PAGE)):
        paths, *columns, urls, rows = (list(column) for column in zip(*page, strict=True))
        names = [os.fsencode(path) for path in paths]
        yield pa.table([names, *columns, [url.encode() for url in urls], rows], SCHEMA)


def write(tables: Iterable[pa.Table], path: Path) -> int:
    """Write `pages` to the file of an index; return how many recordings there are."""
    count = 0
    with pa.OSFile(os.fspath(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as file:
        for table in tables:
            file.write_table(table)
            count += len(table)
    return count


def indexed(clips: Iterable[Clip]) -> RecordingIndex:
    """Return recordings in an index whose file nobody else sees."""
    with tempfile.TemporaryDirectory(prefix="snac-recordings-") as folder:
        path = Path(folder) / "index.arrow"
        write(pages(clips), path)
        return RecordingIndex(path)


def seconds_of(clips: Sequence[Clip]) -> npt.NDArray[np.float64]:
    """Return the length of each recording."""
    if isinstance(clips, RecordingIndex):
        return clips.seconds
    return np.array([clip.seconds for clip in clips], dtype=np.float64)


def weights_of(clips: Sequence[Clip]) -> npt.NDArray[np.float64]:
    """Return how often each recording counts in an epoch."""
    if isinstance(clips, RecordingIndex):
        return clips.weights
    return np.array([clip.weight for clip in clips], dtype=np.float64)

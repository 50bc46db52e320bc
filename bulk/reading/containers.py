"""The bytes of recordings, wherever they are, in the order in which a group names them."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from bulk import filesystems
from bulk.sources import arrow_batches
from snac_core.errors import AudioError
from snac_core.utils.filesystems import is_url

Row: TypeAlias = Mapping[str, Any]
"""A clip, with the columns of `bulk.sources.PLACE`."""

Opened: TypeAlias = bytes | Path | BinaryIO
"""What `snac_core.audio.SoundSource` opens."""

ROWS = 16
"""Recordings of a Parquet file that are in memory at once."""


def recordings(
    clips: Sequence[Row], audio_column: str
) -> Iterator[tuple[list[int], Opened | Exception]]:
    """Yield each recording of a group, with the numbers of the clips that are cut out of it.

    What cannot be opened is yielded as the error.
    """
    numbered = enumerate(clips)
    for place, members in itertools.groupby(numbered, key=lambda one: one[1]["place"]):
        group = list(members)
        if group[0][1]["member"] < 0:
            yield [number for number, _ in group], _single(place)
        elif place.endswith(".tar"):
            yield from _tar_members(place, group)
        else:
            yield from _rows(place, group, audio_column)


def _single(place: str) -> Opened | Exception:
    if place.endswith("|"):
        return AudioError(f"the recording is a command, which is not run: {place}")
    if not is_url(place):
        return Path(place)
    try:
        return filesystems.open_file(place)
    except (OSError, pa.ArrowException) as error:
        return error


def _tar_members(
    place: str, group: Sequence[tuple[int, Row]]
) -> Iterator[tuple[list[int], Opened | Exception]]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(filesystems.open_file(place))
        except OSError as error:
            yield [number for number, _ in group], error
            return
        for number, clip in group:
            try:
                file.seek(clip["member"])
                yield [number], file.read(clip["size"])
            except OSError as error:
                yield [number], error


def _rows(
    place: str, group: Sequence[tuple[int, Row]], audio_column: str
) -> Iterator[tuple[list[int], Opened | Exception]]:
    left = {clip["member"]: number for number, clip in group}
    read = _parquet_values if place.endswith(".parquet") else _arrow_values
    try:
        for row, value in read(place, sorted(left), audio_column):
            yield [left.pop(row)], _held(value, place)
    except (OSError, pa.ArrowException, KeyError) as error:
        # What was read before is whole; the rest fails.
        reason = OSError(f"{place} cannot be read: {error}")
        yield from (([number], reason) for number in left.values())
        return
    for row, number in left.items():
        yield [number], OSError(f"{place} has no row {row} any more")


def _held(value: Any, place: str) -> Opened | Exception:
    if isinstance(value, bytes):
        return value
    value = value or {}
    if value.get("bytes"):
        return bytes(value["bytes"])
    if value.get("path"):
        return _single(filesystems.join(filesystems.parent(place), value["path"]))
    return AudioError("the row holds no recording")


def _parquet_values(
    place: str, rows: Sequence[int], audio_column: str
) -> Iterator[tuple[int, Any]]:
    with filesystems.open_file(place) as raw, pq.ParquetFile(raw) as file:
        first = 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            if bisect.bisect_left(rows, first) < bisect.bisect_left(rows, first + count):
                batches = file.iter_batches(ROWS, row_groups=[number], columns=[audio_column])
                yield from _wanted(batches, first, rows, audio_column)
            first += count


def _arrow_values(place: str, rows: Sequence[int], audio_column: str) -> Iterator[tuple[int, Any]]:
    yield from _wanted(arrow_batches(place), 0, rows, audio_column)


def _wanted(
    batches: Iterator[pa.RecordBatch], first: int, rows: Sequence[int], audio_column: str
) -> Iterator[tuple[int, Any]]:
    for batch in batches:
        end = first + batch.num_rows
        for row in rows[bisect.bisect_left(rows, first) : bisect.bisect_left(rows, end)]:
            yield row, batch[audio_column][row - first].as_py()
        first = end
        if rows[-1] < first:
            return

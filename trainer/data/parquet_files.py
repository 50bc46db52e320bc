"""Parquet files of recordings in the format of Hugging Face datasets.

A column ``audio`` holds, in each row, a recording's file as ``bytes`` and its name as ``path``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snac_core.utils.filesystems import is_url
from trainer.data.places import open_file
from trainer.errors import TrainerError

COLUMN = "audio"
ROWS = 16
"""Recordings that are read at a time."""


def holds_recordings(place: str | Path) -> bool:
    """Return whether a Parquet file has a column of recordings.

    Raises
    ------
    TrainerError
        When it cannot be read.
    """
    with open_parquet(place) as file:
        schema = file.schema_arrow
        return COLUMN in schema.names and pa.types.is_struct(schema.field(COLUMN).type)


def recordings(place: str | Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the contents of each recording in a Parquet file, in its order.

    A row that has none is yielded with no bytes, which no reader takes for a recording.
    """
    with open_parquet(place) as file:
        for batch in file.iter_batches(ROWS, columns=[COLUMN]):
            for number, one in enumerate(batch.column(0).to_pylist()):
                one = one or {}
                yield str(one.get("path") or number), one.get("bytes") or b""


def recording(place: str | Path, row: int) -> bytes:
    """Return the contents of one recording.

    Raises
    ------
    OSError
        When it cannot be read.
    """
    try:
        group, first = _group(place, row)
        with open_parquet(place) as file:
            column = file.read_row_group(group, columns=[COLUMN]).column(0)
    except (TrainerError, pa.ArrowException) as error:
        raise OSError(str(error)) from error
    return (column[row - first].as_py() or {}).get("bytes") or b""


@functools.lru_cache(maxsize=64)
def _group(place: str | Path, row: int) -> tuple[int, int]:
    """Return the number of the group of rows that holds a row, and the group's first row."""
    first = 0
    with open_parquet(place) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < first + count:
                return group, first
            first += count
    raise TrainerError(f"{place} has {first} rows, and no row {row}")


@contextlib.contextmanager
def open_parquet(place: str | Path) -> Iterator[pq.ParquetFile]:
    """Give a Parquet file, opened.

    Raises
    ------
    TrainerError
        When it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(open_file(place)) if is_url(place) else str(place)
            file = stack.enter_context(pq.ParquetFile(source))
        except (OSError, pa.ArrowException) as error:
            raise TrainerError(f"{place} cannot be read: {error}") from error
        yield file

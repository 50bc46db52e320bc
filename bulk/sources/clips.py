"""What a source says of its clips: one row each, its own columns beside those it carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

PLACE = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("place", pa.string()),
        ("member", pa.int64()),
        ("size", pa.int64()),
        ("offset", pa.float64()),
        ("duration", pa.float64()),
        ("channel", pa.int32()),
        ("version", pa.string()),
    ]
)
"""Where a clip is.

``id`` is unique in the input. ``path`` is what the input calls the recording, ``place`` the file
that it is in. ``member`` is -1 for a file that is the recording, else its row in a Parquet or
Arrow file, or the byte of a tar file at which it begins. ``size`` is in bytes, -1 where unknown.
``offset`` and ``duration`` are seconds, null where nothing is cut. ``channel`` is null where the
run's own choice applies. ``version`` is another text when the recording has changed.
"""

CARRIED = "carried."
"""Before the names of the columns that go through to the output."""

ROWS = 8192
"""Clips in one table of a source."""


class Source(Protocol):
    """An input: the clips that it names, some at a time."""

    def tables(self) -> Iterator[pa.Table]:
        """Yield tables of clips: `PLACE`, then the carried columns.

        Raises
        ------
        SourceError
            When the input is not what it is said to be.
        """
        ...


def table_of(rows: Sequence[Mapping[str, Any]], carried: pa.Table | None = None) -> pa.Table:
    """Return a source's table from rows of `PLACE`, with defaults for what they leave out."""
    columns = []
    for field in PLACE:
        default = -1 if field.name in ("member", "size") else None
        values = [row.get(field.name, default) for row in rows]
        columns.append(pa.array(values, field.type))
    names = list(PLACE.names)
    if carried is not None:
        names += [CARRIED + name for name in carried.column_names]
        columns += carried.columns
    return pa.table(dict(zip(names, columns, strict=True)))


def carried_fields(schema: pa.Schema) -> list[pa.Field]:
    """Return the carried columns of a source's table, under the input's own names."""
    return [
        field.with_name(field.name.removeprefix(CARRIED))
        for field in schema
        if field.name.startswith(CARRIED)
    ]

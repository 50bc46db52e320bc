"""Shards written: what an actor does with the codes of a group. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from bulk.batches import Encoded
from bulk.output.folder import Output
from bulk.output.rows import RowWriter


class Written(NamedTuple):
    """What a writer says: what became of each clip, and its shard's name ("" for none)."""

    ledger: pa.Table
    shard: str


class ShardWriter:
    """Joins the codes of groups with what is carried, and writes a shard of each.

    Parameters
    ----------
    folder, settings
        Of an `Output` that was begun.
    rows
        What the rows have.
    """

    def __init__(self, folder: str, settings: Mapping[str, Any], rows: RowWriter) -> None:
        self._output, self._rows = Output(folder), rows
        self._output.settings = dict(settings)

    def write(self, group: pa.Table, *encoded: Encoded) -> Written:
        """Write the clips of a group, given what each batch of it came to."""
        table, ledger = self._rows.rows(group, encoded)
        shard = self._output.write_shard(ledger, table) if table.num_rows else ""
        return Written(ledger, shard)

"""An output folder: its settings, its shards, and what became of every clip.

tokens-<hash>.parquet   the rows (or .tar, .jsonl)
errors.parquet          clips that failed, each with its reason; missing if none did
README.md               the dataset card
.snac-bulk/             the ledger, the settings and the lock
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk import filesystems
from bulk.errors import OutputError
from bulk.output.formats import FORMATS, Format
from bulk.output.ledger import Ledger, entry_name, has_rows
from bulk.output.rows import DONE, FAILED, RowOptions
from bulk.plan import Hashes

HIDDEN = ".snac-bulk"
PREFIX = "tokens-"
ERRORS = "errors.parquet"
CARD = "README.md"
VERSION = 1
UNCHECKED = ("schema", "carried", "model_version", "inputs", "source")
"""Settings in which runs on one output may differ; the columns are compared by name and type."""


class Output:
    """An output folder.

    Parameters
    ----------
    folder
        A path, or a URL.
    """

    def __init__(self, folder: str) -> None:
        self.folder = filesystems.absolute(folder)
        self.hidden = f"{self.folder}/{HIDDEN}"
        self.ledger = Ledger(f"{self.hidden}/ledger")
        self.settings: dict[str, Any] = {}

    @property
    def lock(self) -> str:
        """Where its lock file is."""
        return f"{self.hidden}/lock"

    @property
    def format(self) -> Format:
        """How its files are written."""
        return FORMATS[self.settings["format"]]

    @property
    def schema(self) -> pa.Schema:
        """Columns of its rows."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.settings["schema"])))

    @property
    def carried(self) -> pa.Schema:
        """Columns of the input that go through."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.settings["carried"])))

    @property
    def row_options(self) -> RowOptions:
        """What its rows have."""
        return RowOptions(**self.settings["rows"])

    def make(self) -> None:
        """Make the folder, if it is missing.

        Raises
        ------
        OutputError
            When something else is there.
        """
        if filesystems.is_folder(self.folder) and not filesystems.exists(self.hidden):
            others = [
                file.place.removeprefix(f"{self.folder}/")
                for file in filesystems.files_under(self.folder)
            ]
            if others:
                raise OutputError(
                    f"{self.folder} holds other files, such as {others[0]}, and no output of this "
                    "program; give a new or empty folder"
                )
        filesystems.make_folder(self.ledger.folder)

    def load(self) -> None:
        """Read the settings and the ledger of an output that was begun.

        Raises
        ------
        OutputError
            When there is none.
        """
        if not self.begun:
            raise OutputError(f"{self.folder} is no output of snac-bulk")
        self.settings = orjson.loads(filesystems.read_bytes(self._settings_place))
        if self.settings.get("version") != VERSION:
            raise OutputError(f"{self.folder} was written by another version of this program")
        self.ledger.load()

    @property
    def begun(self) -> bool:
        """Whether a run has begun it."""
        return filesystems.exists(self._settings_place)

    def begin(self, settings: Mapping[str, Any], schema: pa.Schema, carried: pa.Schema) -> None:
        """Write the settings, or make sure that they are those that it was begun with.

        Raises
        ------
        OutputError
            Naming what differs.
        """
        wanted = {
            "version": VERSION,
            **settings,
            "columns": {field.name: str(field.type) for field in schema},
            "schema": _text(schema),
            "carried": _text(carried),
        }
        if not self.settings:
            filesystems.write_bytes(
                self._settings_place, json.dumps(wanted, indent=2, ensure_ascii=False).encode()
            )
            self.settings = wanted
        for name, value in wanted.items():
            known = self.settings.get(name)
            if name not in UNCHECKED and known != value:
                raise OutputError(
                    f"{self.folder} was begun with {name} {known}, and this run has {value}; give "
                    "another output folder, or what it was begun with"
                )

    def retire(self, ids: Hashes) -> None:
        """Take out of the output what it holds of clips that are about to be done again."""
        for entry, which in self.ledger.holding(ids):
            table = self.ledger.table(entry)
            kept = table.filter(pa.array(~which))
            gone = table.filter(pa.array(which))
            shard = entry.shard
            if shard and has_rows(gone):
                rows = self.read_shard(shard)
                left = pc.is_in(rows["id"], kept.filter(pc.equal(kept["status"], DONE))["id"])
                rows = rows.filter(left)
                shard = self.write_shard(kept, rows) if rows.num_rows else ""
            if kept.num_rows:
                self.ledger.commit(kept, shard, replaces=entry.name)
            else:
                self.ledger.forget(entry)
        self.clean()

    def clean(self) -> None:
        """Remove shards that no entry names, as a run that was killed leaves them."""
        known = self.ledger.shards()
        for file in filesystems.files_under(self.folder):
            name = file.place.removeprefix(f"{self.folder}/")
            unfinished = name.rpartition("/")[2].startswith(".tmp-")
            if unfinished or (name.startswith(PREFIX) and name not in known):
                filesystems.remove(file.place)

    def write_shard(self, ledger: pa.Table, rows: pa.Table) -> str:
        """Write rows as a file that does not count yet, and return its name."""
        name = f"{PREFIX}{entry_name(ledger)}"
        data = self.format.write(rows, name.removeprefix(PREFIX))
        filesystems.write_bytes(f"{self.folder}/{name}{self.format.suffix}", data)
        return name + self.format.suffix

    def read_shard(self, name: str) -> pa.Table:
        """Return the rows of one file.

        Raises
        ------
        OutputError
            When it cannot be read.
        """
        try:
            data = filesystems.read_bytes(f"{self.folder}/{name}")
            return self.format.read(data, self.schema)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise OutputError(f"{self.folder}/{name} cannot be read: {error}") from error

    def shards(self) -> Iterator[str]:
        """Yield the names of the files that count, sorted."""
        yield from sorted(self.ledger.shards())

    def write_errors(self) -> pa.Table:
        """Write `ERRORS` anew, and return what it tells: id, path and reason."""
        parts = [
            table.filter(pc.equal(table["status"], FAILED)).select(["id", "path", "reason"])
            for table in self.ledger.tables()
        ]
        place = f"{self.folder}/{ERRORS}"
        errors = pa.concat_tables(parts) if parts else None
        if errors is None or not errors.num_rows:
            filesystems.remove(place)
            return pa.table({"id": [], "path": [], "reason": []})
        errors = errors.sort_by("id").replace_schema_metadata(None)
        file = pa.BufferOutputStream()
        pq.write_table(errors, file, compression="zstd")
        filesystems.write_bytes(place, file.getvalue().to_pybytes())
        return errors

    def durations(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the seconds of every clip in the output."""
        parts = [table["seconds"].drop_null().to_numpy() for table in self.ledger.tables()]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def _settings_place(self) -> str:
        return f"{self.hidden}/settings.json"


def _text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()

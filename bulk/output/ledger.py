"""What became of each clip, and which files of an output count.

Each file of rows (a shard) has an entry: an Arrow file that names the shard and tells what became
of every clip of its group. Writing the entry, whole or not at all, is what commits the shard: a
shard that no entry names is left over from a run that died, and is removed. So every clip is in
the output once, wherever a run is killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bulk import filesystems
from bulk.errors import OutputError
from bulk.output.rows import DONE, FAILED, LEDGER
from bulk.plan import Done, Hashes, hashes

READERS = 16
"""Entries that are read at once; on an object store each waits for the network."""
SUFFIX = ".entry"


@dataclasses.dataclass
class Entry:
    """One entry: its name, the shard it commits ("" for no rows), and the clips as hashes."""

    name: str
    shard: str
    replaces: str
    ids: Hashes
    versions: Hashes
    failed: np.ndarray[tuple[int], np.dtype[np.bool_]]


class Ledger:
    """The entries in a folder.

    Parameters
    ----------
    folder
        Where they are.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}

    def load(self) -> None:
        """Read all entries, and remove those that another replaced.

        Raises
        ------
        OutputError
            When one cannot be read.
        """
        places = [
            file.place
            for file in filesystems.files_under(self.folder)
            if file.place.endswith(SUFFIX)
        ]
        with ThreadPoolExecutor(READERS) as pool:
            found = {entry.name: entry for entry in pool.map(self._read_entry, places)}
        for name in {entry.replaces for entry in found.values()} & found.keys():
            del found[name]
            filesystems.remove(self._place(name))
        self.entries = found

    def done(self) -> Done:
        """Return the clips that need not be done again."""
        entries = list(self.entries.values())
        if not entries:
            return Done(np.empty(0, np.uint64), np.empty(0, np.uint64))
        ids = np.concatenate([entry.ids[~entry.failed] for entry in entries])
        versions = np.concatenate([entry.versions[~entry.failed] for entry in entries])
        order = np.argsort(ids)
        return Done(ids[order], versions[order])

    def shards(self) -> set[str]:
        """Return the names of the files that count."""
        return {entry.shard for entry in self.entries.values()} - {""}

    def commit(self, table: pa.Table, shard: str, replaces: str = "") -> None:
        """Make a shard count.

        Parameters
        ----------
        table
            What became of each clip of its group, as `LEDGER`.
        shard
            The file's name; "" if no clip gave a row.
        replaces
            The entry that this one takes the place of.
        """
        name = entry_name(table)
        known = table.replace_schema_metadata({"shard": shard, "replaces": replaces})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, known.schema, options=options) as file:
            file.write_table(known)
        filesystems.write_bytes(self._place(name), sink.getvalue().to_pybytes())
        self.entries[name] = _entry(name, known)
        if replaces and replaces != name:
            self.entries.pop(replaces, None)
            filesystems.remove(self._place(replaces))

    def forget(self, entry: Entry) -> None:
        """Remove an entry; its shard no longer counts."""
        del self.entries[entry.name]
        filesystems.remove(self._place(entry.name))

    def holding(
        self, ids: Hashes
    ) -> list[tuple[Entry, np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
        """Return the entries that tell of any of these clips, and of which of their own."""
        told = ((entry, np.isin(entry.ids, ids)) for entry in list(self.entries.values()))
        return [(entry, which) for entry, which in told if which.any()]

    def table(self, entry: Entry) -> pa.Table:
        """Return what an entry tells, as `LEDGER`."""
        return self._read(self._place(entry.name))

    def tables(self) -> Iterator[pa.Table]:
        """Yield what each entry tells."""
        for entry in self.entries.values():
            yield self.table(entry)

    def _place(self, name: str) -> str:
        return f"{self.folder}/{name}{SUFFIX}"

    def _read(self, place: str) -> pa.Table:
        try:
            table = pa.ipc.open_file(filesystems.read_bytes(place)).read_all()
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{place} cannot be read: {error}") from error
        if table.column_names != LEDGER.names:
            raise OutputError(f"{place} is no entry of a ledger: {table.column_names}")
        return table

    def _read_entry(self, place: str) -> Entry:
        name = place.rpartition("/")[2].removesuffix(SUFFIX)
        return _entry(name, self._read(place))


def entry_name(table: pa.Table) -> str:
    """Return a name that follows from the clips and their versions."""
    digest = hashlib.sha256()
    for column in ("id", "version"):
        digest.update("\n".join(table[column].to_pylist()).encode() + b"\0")
    return digest.hexdigest()[:16]


def _entry(name: str, table: pa.Table) -> Entry:
    known = table.schema.metadata or {}
    return Entry(
        name,
        known.get(b"shard", b"").decode(),
        known.get(b"replaces", b"").decode(),
        hashes(table["id"].to_pylist()),
        hashes(table["version"].to_pylist()),
        pc.equal(table["status"], FAILED).combine_chunks().to_numpy(zero_copy_only=False),
    )


def has_rows(table: pa.Table) -> bool:
    """Return whether any clip of a ledger's table gave a row."""
    return bool(pc.any(pc.equal(table["status"], DONE)).as_py())

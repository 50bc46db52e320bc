"""The plan of a run: the clips that are still to do, on disk, in groups.

Planning reads the whole input once, without its audio. What is to do goes to a temporary file, a
table at a time, so that memory grows by 16 bytes a clip: its id and its version as hashes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bulk.errors import SourceError
from bulk.sources import Source, carried_fields

Hashes = npt.NDArray[np.uint64]

MOST_GROUP_SECONDS = 7200.0
"""Audio after which a group ends, where a manifest says how long clips are."""
MOST_GROUP_BYTES = 2**29
"""Bytes of recordings after which a group ends."""


class Done(NamedTuple):
    """What an output already holds: sorted hashes of ids, and the hashes of their versions."""

    ids: Hashes
    versions: Hashes

    def of(self, ids: Hashes, versions: Hashes) -> npt.NDArray[np.bool_]:
        """Return which clips are there in the version that the input has now."""
        if not len(self.ids):
            return np.zeros(len(ids), bool)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        known: npt.NDArray[np.bool_] = (self.ids[at] == ids) & (self.versions[at] == versions)
        return known


def hashes(texts: list[str]) -> Hashes:
    """Return a 64-bit hash of each text."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint64)


def _spool() -> tempfile._TemporaryFileWrapper[bytes]:
    return tempfile.NamedTemporaryFile(prefix="snac-bulk-plan-")


@dataclasses.dataclass
class Plan:
    """What `make_plan` found.

    Attributes
    ----------
    found, todo
        Clips in the input, and those among them that are still to do.
    seconds
        Audio of those to do whose length the input says; with ``timed`` how many they are.
    carried
        Columns of the input that go through, over all of it.
    """

    found: int = 0
    todo: int = 0
    seconds: float = 0.0
    timed: int = 0
    carried: pa.Schema = dataclasses.field(default_factory=lambda: pa.schema([]))
    _ids: array[int] = dataclasses.field(default_factory=lambda: array("Q"))
    _schema: pa.Schema | None = None
    _parts: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    _file: tempfile._TemporaryFileWrapper[bytes] = dataclasses.field(default_factory=_spool)

    @property
    def ids(self) -> Hashes:
        """Hashes of the ids of what is to do."""
        return np.frombuffer(self._ids, np.uint64) if self._ids else np.empty(0, np.uint64)

    def groups(self, most_clips: int) -> Iterator[pa.Table]:
        """Yield the clips to do, in order, in groups that are read and written together.

        The segments of one file stay together, up to eight times ``most_clips`` of them: the file
        is then read once.
        """
        held: list[pa.Table] = []
        for table in self._tables():
            held = [pa.concat_tables([*held, table])]
            while (end := _group_end(held[0], most_clips)) is not None:
                yield held[0].slice(0, end)
                held = [held[0].slice(end)]
        if held and held[0].num_rows:
            yield held[0]

    def close(self) -> None:
        """Remove the plan's file."""
        self._file.close()

    def add(self, table: pa.Table, ids: Hashes) -> None:
        """Append clips that are to be done, with the hashes of their ids."""
        self._ids.frombytes(ids.tobytes())
        start = self._file.tell()
        with pa.ipc.new_stream(self._file, table.schema) as stream:
            stream.write_table(table)
        self._parts.append((start, self._file.tell() - start))
        self.todo += table.num_rows
        lengths = table["duration"].drop_null()
        self.timed += len(lengths)
        self.seconds += pc.sum(lengths).as_py() or 0.0

    def unify(self, schema: pa.Schema) -> None:
        """Give all clips the columns of the whole input."""
        self._schema = schema
        self.carried = pa.schema(carried_fields(schema))

    def _tables(self) -> Iterator[pa.Table]:
        self._file.flush()
        assert self._schema is not None
        with pa.memory_map(self._file.name) as mapped:
            for start, size in self._parts:
                mapped.seek(start)
                table = pa.ipc.open_stream(pa.BufferReader(mapped.read_buffer(size))).read_all()
                yield _as(table, self._schema)


def make_plan(
    source: Source,
    done: Done,
    progress: Callable[[int], None] = lambda found: None,
) -> Plan:
    """Read an input, and return what is to do of it.

    Parameters
    ----------
    source
        The input.
    done
        What the output holds.
    progress
        Told how many clips have been found so far.

    Raises
    ------
    SourceError
        When the input is not what it is said to be, or two clips have one id.
    """
    with contextlib.ExitStack() as stack:
        plan = Plan()
        stack.callback(plan.close)
        _fill(plan, source, done, progress)
        stack.pop_all()
    return plan


def _fill(plan: Plan, source: Source, done: Done, progress: Callable[[int], None]) -> None:
    ids = array("Q")
    schema: pa.Schema | None = None
    for table in source.tables():
        if schema is None or not table.schema.equals(schema):
            schema = _unified(schema, table.schema)
        hashed = hashes(table["id"].to_pylist())
        ids.frombytes(hashed.tobytes())
        left = ~done.of(hashed, hashes(table["version"].to_pylist()))
        plan.found += table.num_rows
        if left.any():
            plan.add(table.filter(pa.array(left)), hashed[left])
        progress(plan.found)
    if schema is None:
        raise SourceError("the input has no clips")
    plan.unify(schema)
    _refuse_duplicates(source, np.frombuffer(ids, np.uint64))


def _unified(known: pa.Schema | None, new: pa.Schema) -> pa.Schema:
    new = new.remove_metadata()
    if known is None:
        return new
    try:
        return pa.unify_schemas([known, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise SourceError(f"the input's columns are not of one type throughout: {error}") from error


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of ``schema``; missing ones are null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _refuse_duplicates(source: Source, ids: Hashes) -> None:
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    for table in source.tables():
        names = table["id"].to_pylist()
        for name, hashed in zip(names, hashes(names), strict=True):
            if hashed == twice[0]:
                raise SourceError(
                    f"{len(twice)} clips have an id that another has, such as {name!r}; "
                    "--id-column names a column of ids that differ"
                )


def _group_end(table: pa.Table, most_clips: int) -> int | None:
    """Return where the first group of a table ends; None if it may not be over yet."""
    count = table.num_rows
    sizes = np.maximum(table["size"].to_numpy(), 0)
    lengths = table["duration"].fill_null(0.0).to_numpy()
    over = (np.cumsum(sizes) > MOST_GROUP_BYTES) | (np.cumsum(lengths) > MOST_GROUP_SECONDS)
    end = min(most_clips, int(np.argmax(over)) + 1 if over.any() else most_clips)
    if end >= count:
        return None
    places = table["place"]
    single = table["member"][end - 1].as_py() < 0
    while single and places[end].as_py() == places[end - 1].as_py():
        end += 1
        if end == count:
            return None if count < 8 * most_clips else count
        if end >= 8 * most_clips:
            break
    return end

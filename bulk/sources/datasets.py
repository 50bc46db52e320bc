"""Datasets as Hugging Face's library keeps them: Parquet and Arrow files with recordings inside.

The column of recordings is a struct of ``bytes`` and ``path``, or plain bytes. All other columns
are carried. A row's id is the column that was named, or else the file and the row's number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from bulk import filesystems
from bulk.errors import SourceError
from bulk.filesystems import File
from bulk.sources.clips import ROWS, table_of
from snac_core.utils.filesystems import is_url

AUDIO_COLUMN = "audio"


class ColumnsSource:
    """The rows of Parquet or Arrow files.

    Parameters
    ----------
    root
        What ids are relative to.
    files
        Parquet files, or files of Arrow's stream or file format.
    audio_column, id_column
        Columns of the recordings and of the id; None means ``audio``, and no column.
    """

    def __init__(
        self,
        root: str,
        files: Sequence[File],
        audio_column: str | None = None,
        id_column: str | None = None,
    ) -> None:
        self.root, self.files = root.rstrip("/") + "/", files
        self.audio_column, self.id_column = audio_column or AUDIO_COLUMN, id_column

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in the order of the files; see `Source`."""
        for file in self.files:
            name = file.place.removeprefix(self.root)
            first = 0
            for page in self._pages(file):
                yield self._clips(file, name, first, page)
                first += page.num_rows

    def _pages(self, file: File) -> Iterator[pa.Table]:
        """Yield all columns, with the recordings' names in place of the recordings."""
        try:
            pages = parquet_pages if file.place.endswith(".parquet") else arrow_pages
            yield from pages(file.place, self.audio_column)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{file.place} cannot be read: {error}") from error

    def _clips(self, file: File, name: str, first: int, page: pa.Table) -> pa.Table:
        if self.id_column and self.id_column not in page.column_names:
            raise SourceError(f"{file.place} has no column {self.id_column!r}")
        ids = page[self.id_column].cast(pa.string()).to_pylist() if self.id_column else []
        paths = page[self.audio_column].to_pylist()
        rows = []
        for number in range(page.num_rows):
            default = f"{name}#{first + number}"
            rows.append(
                {
                    "id": ids[number] if ids else default,
                    "path": paths[number] or default,
                    "place": file.place,
                    "member": first + number,
                    "version": file.version,
                }
            )
        dropped = {self.audio_column, self.id_column} - {None}
        return table_of(rows, page.drop_columns(list(dropped)))


def parquet_pages(place: str, audio_column: str) -> Iterator[pa.Table]:
    """Yield a Parquet file's columns; of the recordings only their names are read."""
    with filesystems.open_file(place) as raw, pq.ParquetFile(raw) as file:
        schema = file.schema_arrow
        _check_audio(schema, audio_column, place)
        has_path = "path" in _fields(schema.field(audio_column))
        wanted = [name for name in schema.names if name != audio_column]
        wanted += [f"{audio_column}.path"] if has_path else []
        for batch in file.iter_batches(ROWS, columns=wanted):
            table = pa.Table.from_batches([batch])
            if has_path:
                at = table.column_names.index(audio_column)
                paths = pa.chunked_array(
                    [chunk.field("path") for chunk in table[audio_column].chunks], pa.string()
                )
                yield table.set_column(at, audio_column, paths)
            else:
                yield table.append_column(audio_column, pa.nulls(table.num_rows, pa.string()))


def arrow_pages(place: str, audio_column: str) -> Iterator[pa.Table]:
    """Yield an Arrow file's columns, with the recordings' names in place of the recordings."""
    for batch in arrow_batches(place):
        _check_audio(batch.schema, audio_column, place)
        table = pa.Table.from_batches([batch])
        column = batch[audio_column]
        has_path = "path" in _fields(batch.schema.field(audio_column))
        paths = column.field("path") if has_path else pa.nulls(len(column), pa.string())
        at = table.column_names.index(audio_column)
        yield table.set_column(at, audio_column, paths)


def arrow_batches(place: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file of Arrow's stream or file format, mapped where it is local."""
    with contextlib.ExitStack() as stack:
        if is_url(place):
            source = pa.PythonFile(stack.enter_context(filesystems.open_file(place)), "r")
        else:
            source = stack.enter_context(pa.memory_map(place))
        try:
            file = pa.ipc.open_file(source)
            yield from (file.get_batch(number) for number in range(file.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


def hub_files(name: str, split: str) -> list[File]:
    """Return the Arrow files of a dataset that ``datasets.load_dataset`` names.

    Parameters
    ----------
    name
        ``owner/name``, or ``owner/name:configuration``.

    Raises
    ------
    SourceError
        When the package ``datasets`` is missing, or it cannot load the dataset.
    """
    try:
        import datasets  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise SourceError(
            f"hub:{name} needs the package datasets: pip install 'snac-tokenizer[hub]'"
        ) from error
    owner_name, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(owner_name, configuration or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(f"hub:{name}, split {split}: {error}") from error
    found = [filesystems.stat(one["filename"]) for one in loaded.cache_files]
    return [file for file in found if file]


def has_recordings(place: str, audio_column: str) -> bool:
    """Return whether a Parquet file has a column of recordings rather than of names."""
    try:
        with filesystems.open_file(place) as raw, pq.ParquetFile(raw) as file:
            schema = file.schema_arrow
            return audio_column in schema.names and _holds_bytes(schema.field(audio_column).type)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{place} cannot be read: {error}") from error


def _check_audio(schema: pa.Schema, name: str, place: str) -> None:
    if name not in schema.names or not _holds_bytes(schema.field(name).type):
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise SourceError(
            f"{place} has no column {name!r} of recordings (bytes, or a struct of bytes and path); "
            f"its columns are {columns}; --audio-column names one"
        )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name in ("bytes", "path") for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _fields(field: pa.Field) -> set[str]:
    return {one.name for one in field.type} if pa.types.is_struct(field.type) else set()

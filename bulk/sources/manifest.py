"""Manifests: tables with a row for each clip, in CSV, JSON Lines (NeMo's among them) or Parquet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from bulk import filesystems
from bulk.errors import SourceError
from bulk.sources.clips import ROWS, table_of
from snac_core.utils.filesystems import is_url

PATH_COLUMNS = ("path", "audio_filepath", "audio_path", "file_name", "filename", "file", "wav")
ID_COLUMNS = ("id", "utt_id", "clip_id")
OFFSET_COLUMNS = ("offset", "start")
DURATION_COLUMNS = ("duration",)


class ManifestSource:
    """The clips of a manifest.

    A row names a recording, relative to the manifest's folder unless it is absolute or a URL.
    ``offset`` (or ``start``) and ``duration`` are seconds and cut a segment out of it, and
    ``channel`` is an index. The id is the manifest's, or else the recording's name, with the
    offset where there is one.

    Parameters
    ----------
    place
        The manifest: ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet``; the text ones may
        be compressed (``.gz``).
    audio_column, id_column
        Columns of the recording's name and of the id; None looks for the usual names.
    """

    def __init__(
        self, place: str, audio_column: str | None = None, id_column: str | None = None
    ) -> None:
        self.place, self.audio_column, self.id_column = place, audio_column, id_column

    def tables(self) -> Iterator[pa.Table]:
        """Yield the clips in the manifest's order; see `Source`."""
        for page in read_pages(self.place):
            yield self._clips(page)

    def _clips(self, page: pa.Table) -> pa.Table:
        names = page.column_names
        path_column = self.audio_column or find_column(names, PATH_COLUMNS)
        if path_column not in names:
            wanted = self.audio_column or f"any of {', '.join(PATH_COLUMNS)}"
            raise SourceError(
                f"{self.place} has no column of recordings ({wanted}); its columns are "
                f"{', '.join(names)}; --audio-column names one"
            )
        id_column = self.id_column or find_column(names, ID_COLUMNS)
        if self.id_column and self.id_column not in names:
            raise SourceError(f"{self.place} has no column {self.id_column!r}")
        paths = _texts(page[path_column])
        count = page.num_rows
        offsets = self._numbers(page, find_column(names, OFFSET_COLUMNS))
        durations = self._numbers(page, find_column(names, DURATION_COLUMNS))
        channels = self._numbers(page, "channel" if "channel" in names else None)
        ids = _texts(page[id_column]) if id_column else [None] * count
        folder = filesystems.parent(self.place)
        rows = []
        for path, own_id, offset, duration, channel in zip(
            paths, ids, offsets, durations, channels, strict=True
        ):
            if not path:
                raise SourceError(f"{self.place} has a row without a recording in {path_column!r}")
            rows.append(
                clip_row(folder, path, own_id, offset, duration, int_channel(channel, self.place))
            )
        used = {path_column, id_column}
        kept = [name for name in names if name not in used]
        return table_of(rows, page.select(kept))

    def _numbers(self, page: pa.Table, name: str | None) -> Sequence[float | None]:
        if name is None:
            return [None] * page.num_rows
        try:
            column = page[name]
            if pa.types.is_string(column.type):
                # An empty cell of a CSV is no number.
                column = pa.chunked_array([[text or None for text in column.to_pylist()]])
                column = column.cast(pa.string())
            values: list[float | None] = column.cast(pa.float64()).to_pylist()
        except pa.ArrowException as error:
            raise SourceError(f"{self.place}: column {name!r} holds no seconds: {error}") from error
        return values


def clip_row(
    folder: str,
    path: str,
    own_id: str | None,
    offset: float | None,
    duration: float | None,
    channel: int | None,
) -> dict[str, Any]:
    """Return a row of `PLACE` for a segment of a recording, or a whole one."""
    place = filesystems.join(folder, path)
    # Asking an object store for each of a million objects would take hours.
    file = None if is_url(place) else filesystems.stat(place)
    cut = "" if offset is None and duration is None else f" {offset or 0:g}+{duration}"
    return {
        "id": own_id or (path if offset is None else f"{path}@{offset:g}"),
        "path": path,
        "place": place,
        "size": file.size if file else -1,
        "offset": offset,
        "duration": duration,
        "channel": channel,
        "version": f"{file.version if file else ''}{cut}",
    }


def int_channel(value: float | None, where: str) -> int | None:
    """Return a channel's index; raises SourceError for what is none."""
    if value is None:
        return None
    if value != int(value) or not 0 <= value < 1000:
        raise SourceError(f"{where}: channel must be an index from 0, not {value!r}")
    return int(value)


def find_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first of the wanted names that is there."""
    return next((name for name in wanted if name in names), None)


def read_pages(place: str) -> Iterator[pa.Table]:
    """Yield a manifest's rows as tables.

    A CSV has no types, and all its columns are text.

    Raises
    ------
    SourceError
        When it cannot be read.
    """
    plain = place.removesuffix(".gz")
    try:
        if plain.endswith(".parquet"):
            with filesystems.open_file(place) as file, pq.ParquetFile(file) as table:
                for batch in table.iter_batches(ROWS):
                    yield pa.Table.from_batches([batch])
        elif plain.endswith((".csv", ".tsv")):
            yield from _csv_pages(place, "\t" if plain.endswith(".tsv") else ",")
        else:
            for first, rows in json_pages(place):
                yield json_table(rows, f"{place}, line {first}")
    except (OSError, EOFError, pa.ArrowException) as error:
        raise SourceError(f"{place} cannot be read: {error}") from error


def json_pages(place: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the number of a line, and the objects of the lines from there on."""
    with filesystems.open_text(place) as file:
        lines = iter(enumerate(file, 1))
        while page := list(itertools.islice(lines, ROWS)):
            rows = []
            for number, line in page:
                if not line.strip():
                    continue
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise SourceError(f"{place}, line {number}: not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise SourceError(f"{place}, line {number}: must be an object, one per line")
                rows.append(row)
            yield page[0][0], rows


def json_table(rows: list[dict[str, Any]], where: str) -> pa.Table:
    """Return objects as a table with the columns of all of them.

    Raises
    ------
    SourceError
        When a column holds values of different kinds.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise SourceError(f"{where} and after: column {name!r}: {error}") from error
    return pa.table(columns)


def _csv_pages(place: str, delimiter: str) -> Iterator[pa.Table]:
    with filesystems.open_text(place) as file:
        header = file.readline()
        if not header.strip():
            return
        names = _csv_names(header, delimiter)
        reader = pyarrow.csv.open_csv(
            pa.input_stream(file),
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
        for batch in reader:
            for first in range(0, batch.num_rows, ROWS):
                yield pa.Table.from_batches([batch.slice(first, ROWS)])


def _csv_names(header: bytes, delimiter: str) -> list[str]:
    table = pyarrow.csv.read_csv(
        pa.BufferReader(header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") + b"\n"),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
    )
    names: list[str] = table.column_names
    return names


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    values: list[str | None] = column.cast(pa.string()).to_pylist()
    return values

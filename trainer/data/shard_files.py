"""WebDataset shards on disk: tar files of recordings, and an index of their contents.

A shard holds each recording under a number of its own, with what is known of it beside:
``000000017.flac`` and ``000000017.json``. Any WebDataset reader can read it, and shards that
others made, with no index, can be read here.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import braceexpand
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from webdataset import ShardWriter

from snac_core.errors import AudioError
from snac_core.utils.commands import progress
from snac_core.utils.filesystems import is_url
from trainer.data.lengths import MANIFEST
from trainer.data.parquet_files import holds_recordings, open_parquet, recordings
from trainer.data.places import files_under, open_file
from trainer.data.recordings import Clip, clip_of, is_audio
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

INDEX = "shards.parquet"
SUFFIXES = (".tar", ".parquet")
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("frames", pa.int64()),
        ("sample_rate", pa.int32()),
    ]
)


class Entry(NamedTuple):
    """What goes into a shard."""

    suffix: str
    """Of the format, such as ``.flac``."""
    data: bytes
    known: dict[str, Any]
    """JSON-ready."""


def is_shards(place: str | Path) -> bool:
    """Return whether ``place`` is a shard, a pattern of shards, or a folder that holds some.

    Shards are tar files, and Parquet files with recordings in them.
    """
    name = str(place)
    if name.endswith(".tar"):
        return True
    if name.endswith(".parquet"):
        return any(char in name for char in "*{") or holds_recordings(place)
    if is_url(place):
        found = [url for url in files_under(name) if url.endswith(SUFFIXES)]
    elif Path(place).is_dir():
        found = [
            str(path) for suffix in SUFFIXES for path in sorted(Path(place).glob(f"*{suffix}"))
        ]
    else:
        return False
    return any(_is_shard(one) for one in found)


def _is_shard(place: str) -> bool:
    return place.endswith(".tar") or (
        place.endswith(".parquet")
        and place.rpartition("/")[2] not in (INDEX, MANIFEST)
        and holds_recordings(place)
    )


def shard_paths(place: str | Path) -> list[Path] | list[str]:
    """Return the shards in a folder, or those that a pattern names, sorted: paths, or URLs.

    Parameters
    ----------
    place
        A folder, ``some/*.tar``, or ``some/{000000..000042}.tar``.

    Raises
    ------
    TrainerError
        When there are none, or one that is named is missing.
    """
    if is_url(place):
        urls = sorted(_remote(str(place)))
        if not urls:
            raise TrainerError(f"there is no shard {place}")
        return urls
    if Path(place).is_dir():
        found = [path for path in Path(place).iterdir() if _is_shard(str(path))]
    else:
        found = []
        for name in braceexpand.braceexpand(str(place)):
            path = Path(name)
            found += path.parent.glob(path.name) if "*" in path.name else [path]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise TrainerError(f"there is no shard {', '.join(missing[:5]) or place}")
    return sorted(found)


def _remote(place: str) -> Iterator[str]:
    for name in braceexpand.braceexpand(place):
        if "*" in name:
            folder = name[: name.index("*")].rpartition("/")[0]
            yield from (url for url in files_under(folder) if fnmatch.fnmatchcase(url, name))
        elif name.endswith(SUFFIXES):
            yield from files_under(name)
        else:
            yield from (url for url in files_under(name) if _is_shard(url))


def write_shards(
    entries: Iterable[Entry], folder: Path, max_recordings: int, max_bytes: float
) -> Iterator[str]:
    """Write entries to ``folder/000000.tar`` and on, with their index; yield where each went.

    Parameters
    ----------
    entries
        Taken one at a time; no more than one is in memory.
    folder
        Must exist, and contain no shards.
    max_recordings, max_bytes
        A shard is ended when it has so much.

    Yields
    ------
    str
        The shard's name and the recording's name in it, with ``#`` between.
    """
    number = 0
    with pq.ParquetWriter(folder / INDEX, SCHEMA) as index:

        def add_to_index(name: str) -> None:
            index.write_table(_table(_index_of(Path(name))))

        with ShardWriter(
            str(folder / "%06d.tar").replace("%06d", "\0").replace("%", "%%").replace("\0", "%06d"),
            max_recordings,
            max_bytes,
            post=add_to_index,
            verbose=0,
            encoder=False,
            # The same recordings make the same bytes.
            mtime=0,
        ) as writer:
            for suffix, data, known in entries:
                key = f"{number:09d}"
                extension = suffix.lower().removeprefix(".")
                text = json.dumps(known, ensure_ascii=False, sort_keys=True).encode()
                writer.write({"__key__": key, extension: data, "json": text})
                yield f"{Path(writer.fname).name}#{key}.{extension}"
                number += 1


def scan_shards(paths: Sequence[str | Path]) -> list[Clip]:
    """Return the recordings in shards, from the index beside them or else from themselves.

    Those that cannot be read are logged.

    Raises
    ------
    TrainerError
        When a shard is no tar file, or no recording can be read.
    """
    clips = []
    for path, rows in _rows(paths):
        places = zip(*(rows[name].tolist() for name in SCHEMA.names[1:]), strict=True)
        url, parquet = str(path) if is_url(path) else "", str(path).endswith(".parquet")
        clips += [
            Clip(Path(path), frames, rate, url=url, row=offset)
            if parquet
            else Clip(Path(path), frames, rate, offset=offset, size=size, url=url)
            for offset, size, frames, rate in places
        ]
    if not clips:
        raise TrainerError(f"none of the recordings in {len(paths)} shards can be read")
    return clips


def lengths_in(paths: Sequence[str | Path]) -> dict[str | Path, npt.NDArray[np.float64]]:
    """Return the seconds of each recording in each shard, as `scan_shards` finds them."""
    lengths = {path: rows["frames"] / rows["sample_rate"] for path, rows in _rows(paths)}
    if not sum(map(len, lengths.values())):
        raise TrainerError(f"none of the recordings in {len(paths)} shards can be read")
    return lengths


def _rows(
    paths: Sequence[str | Path],
) -> Iterator[tuple[str | Path, dict[str, npt.NDArray[np.int64]]]]:
    """Yield each shard with its rows of the index, column by column."""
    tables: dict[str, pa.Table] = {}
    for path in progress(paths, desc="reading shards", unit="shard", delay=2):
        folder, _, name = str(path).rpartition("/")
        if folder not in tables:
            tables[folder] = _index_in(folder)
        rows = tables[folder].filter(pc.field("shard") == name)
        if not len(rows):
            rows = _table(_index_of(path))
        yield path, {name: rows[name].to_numpy() for name in SCHEMA.names[1:]}


def _index_in(folder: str) -> pa.Table:
    path = f"{folder}/{INDEX}" if folder else INDEX
    there = path in files_under(folder) if is_url(folder) else Path(path).is_file()
    if not there:
        return SCHEMA.empty_table()
    with open_parquet(path) as file:
        table = file.read()
    if table.column_names != SCHEMA.names:
        raise TrainerError(f"{path} is not an index of shards: {SCHEMA.names}")
    return table


def _index_of(path: str | Path) -> list[Clip]:
    """Return the recordings in one shard, from their headers."""
    clips = []
    if str(path).endswith(".parquet"):
        for row, (name, data) in enumerate(recordings(path)):
            try:
                # The row takes the place of the byte at which a recording begins.
                clips.append(clip_of(Path(path), held=data)._replace(offset=row))
            except AudioError as error:
                log.warning("skipping %s, row %d of %s: %s", name, row, path, error)
        return clips
    url = str(path) if is_url(path) else ""
    try:
        with open_file(path) as file, tarfile.open(fileobj=file) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                if not member.isreg() or not is_audio(member.name):
                    continue
                try:
                    clips.append(clip_of(Path(path), member.offset_data, member.size, url))
                except AudioError as error:
                    log.warning("skipping %s in %s: %s", member.name, path, error)
    except tarfile.TarError as error:
        raise TrainerError(f"{path} is no tar file, or damaged: {error}") from error
    return clips


def _table(clips: list[Clip]) -> pa.Table:
    columns = [
        [clip.path.name for clip in clips],
        *([getattr(clip, name) for clip in clips] for name in SCHEMA.names[1:]),
    ]
    return pa.table(columns, SCHEMA)

"""WebDataset shards on disk: tar files of recordings, and the index of what is where in them.

A shard holds each recording under a number of its own, with what is known of it beside:
``000000017.flac`` and ``000000017.json``. Any WebDataset reader can read it, and shards that
others made, with no index, can be read here.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import braceexpand
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm
from webdataset import ShardWriter

from snac_core.errors import AudioError
from trainer.data.recordings import Clip, clip_of, is_audio
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

INDEX = "shards.parquet"
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
    """Return whether ``place`` is a shard, a pattern of shards, or a folder that holds some."""
    path = Path(place)
    return path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def shard_paths(place: str | Path) -> list[Path]:
    """Return the shards in a folder, or those that a pattern names, sorted.

    Parameters
    ----------
    place
        A folder, ``some/*.tar``, or ``some/{000000..000042}.tar``.

    Raises
    ------
    TrainerError
        When there are none, or one that is named is missing.
    """
    if Path(place).is_dir():
        found = list(Path(place).glob("*.tar"))
    else:
        found = []
        for name in braceexpand.braceexpand(str(place)):
            path = Path(name)
            found += path.parent.glob(path.name) if "*" in path.name else [path]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise TrainerError(f"there is no shard {', '.join(missing[:5]) or place}")
    return sorted(found)


def write_shards(
    entries: Iterable[Entry], folder: Path, max_recordings: int, max_bytes: float
) -> Iterator[str]:
    """Write entries to ``folder/000000.tar`` and on, with their index; yield where each went.

    Parameters
    ----------
    entries
        Taken one at a time; no more than one is in memory.
    folder
        Must be there, and hold no shards.
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


def scan_shards(paths: list[Path]) -> list[Clip]:
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
        clips += [
            Clip(path, frames, rate, offset=offset, size=size)
            for offset, size, frames, rate in places
        ]
    if not clips:
        raise TrainerError(f"none of the recordings in {len(paths)} shards can be read")
    return clips


def lengths_in(paths: list[Path]) -> dict[Path, npt.NDArray[np.float64]]:
    """Return the seconds of each recording in each shard, as `scan_shards` finds them."""
    lengths = {path: rows["frames"] / rows["sample_rate"] for path, rows in _rows(paths)}
    if not sum(map(len, lengths.values())):
        raise TrainerError(f"none of the recordings in {len(paths)} shards can be read")
    return lengths


def _rows(paths: list[Path]) -> Iterator[tuple[Path, dict[str, npt.NDArray[np.int64]]]]:
    """Yield each shard with its rows of the index, column by column."""
    tables = {folder: _index_in(folder) for folder in {path.parent for path in paths}}
    for path in tqdm(paths, "reading shards", unit="shard", delay=2):
        table = tables[path.parent]
        rows = table.filter(pc.field("shard") == path.name)
        if not len(rows):
            rows = _table(_index_of(path))
        yield path, {name: rows[name].to_numpy() for name in SCHEMA.names[1:]}


def _index_in(folder: Path) -> pa.Table:
    if not (folder / INDEX).is_file():
        return SCHEMA.empty_table()
    table = pq.read_table(folder / INDEX)
    if table.column_names != SCHEMA.names:
        raise TrainerError(f"{folder / INDEX} is not an index of shards: {SCHEMA.names}")
    return table


def _index_of(path: Path) -> list[Clip]:
    """Return the recordings in one shard, from their headers."""
    clips = []
    try:
        with tarfile.open(path) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                if not member.isreg() or not is_audio(member.name):
                    continue
                try:
                    clips.append(clip_of(path, member.offset_data, member.size))
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

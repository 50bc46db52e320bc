"""WebDataset shards: tar files in which the files of one sample share a name."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pyarrow as pa

from bulk import filesystems
from bulk.errors import SourceError
from bulk.filesystems import File
from bulk.sources.clips import ROWS, table_of
from bulk.sources.folder import is_audio
from bulk.sources.manifest import json_table

READERS = 8
"""Shards that are listed at once: most of the time is waiting for a disk or a network."""
TEXTS = ("txt", "text", "transcript", "cls", "lang", "speaker", "id")
MOST_TEXT = 2**20
"""Bytes of what is carried from one file."""


class WebDatasetSource:
    """The samples of tar shards; the id is the shard's name and the sample's.

    The fields of a sample's ``.json`` are carried under their names, and ``.txt`` and other short
    texts under their suffix (``.txt`` as ``text``).

    Parameters
    ----------
    root
        What ids are relative to.
    shards
        Tar files, not compressed.
    """

    def __init__(self, root: str, shards: Sequence[File]) -> None:
        self.root, self.shards = root.rstrip("/") + "/", shards

    def tables(self) -> Iterator[pa.Table]:
        """Yield the samples, shard by shard; see `Source`."""
        with ThreadPoolExecutor(READERS) as pool:
            for first in range(0, len(self.shards), READERS):
                for tables in pool.map(self._shard, self.shards[first : first + READERS]):
                    yield from tables

    def _shard(self, shard: File) -> list[pa.Table]:
        name = shard.place.removeprefix(self.root)
        rows: list[dict[str, Any]] = []
        carried: list[dict[str, Any]] = []
        try:
            for key, files, fields in _samples(shard.place):
                if files:
                    member, offset, size = files[0]
                    rows.append(
                        {
                            "id": f"{name}/{key}",
                            "path": f"{name}/{member}",
                            "place": shard.place,
                            "member": offset,
                            "size": size,
                            "version": shard.version,
                        }
                    )
                    carried.append(fields)
        except (OSError, tarfile.TarError, ValueError) as error:
            raise SourceError(f"{shard.place} cannot be read as a tar file: {error}") from error
        return [
            table_of(
                rows[first : first + ROWS], json_table(carried[first : first + ROWS], shard.place)
            )
            for first in range(0, len(rows), ROWS)
        ]


def _samples(
    place: str,
) -> Iterator[tuple[str, list[tuple[str, int, int]], dict[str, Any]]]:
    """Yield each sample's key, its recordings (name, first byte, size), and what is carried."""
    key, files, fields = "", [], {}  # type: ignore[var-annotated]
    with filesystems.open_file(place) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]
            if not member.isreg():
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            name = f"{folder}/{stem}" if folder else stem
            if name != key:
                if key:
                    yield key, files, fields
                key, files, fields = name, [], {}
            if is_audio(base):
                files.append((member.name, member.offset_data, member.size))
            elif suffix in ("json", *TEXTS) and member.size <= MOST_TEXT:
                fields |= _fields(suffix, tar.extractfile(member).read())  # type: ignore[union-attr]
    if key:
        yield key, files, fields


def _fields(suffix: str, data: bytes) -> dict[str, Any]:
    if suffix != "json":
        return {"text" if suffix == "txt" else suffix: data.decode("utf-8").strip()}
    value = orjson.loads(data)
    return value if isinstance(value, dict) else {"json": value}

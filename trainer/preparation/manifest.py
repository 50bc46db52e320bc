"""The manifests that `prepare` writes: where each recording went, and what could not be read."""

from __future__ import annotations

import csv
import filecmp
import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snac_core.utils import atomic_files
from trainer.data.lengths import MEASURED_AS_THEY_ARE
from trainer.preparation.catalog import Wanted

UNREADABLE = "unreadable.csv"

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("duration", pa.float64()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int16()),
        ("peak", pa.float32()),
        ("loudness", pa.float32()),
        ("bandwidth", pa.float32()),
    ]
)
"""``path`` is relative to the manifest's folder; of a recording in a shard it names the shard
and, after ``#``, the member. ``group`` is null where nothing was grouped. The rest is of the
source: seconds, Hz, full scale as 1, LUFS, Hz; see `trainer.preparation.measure.Measured`.
"""

ROW_GROUP = 8192
DIGEST = b"prepared"
"""Key of the schema's metadata under which shards are known again."""


def write_manifest(
    path: Path, rows: Iterable[Wanted], grouped: bool, digest: str = "", converted: bool = True
) -> None:
    """Write the manifest, a row group at a time; one that would be the same is left alone.

    Parameters
    ----------
    digest
        Of shards; what `digest_of` returns.
    converted
        Whether what was placed is something else than what was measured.
    """
    about = {} if converted else {MEASURED_AS_THEY_ARE: b"yes"}
    schema = SCHEMA.with_metadata({DIGEST: digest, **about})

    def write(unfinished: Path) -> None:
        with pq.ParquetWriter(unfinished, schema) as table:
            left = iter(rows)
            while page := list(islice(left, ROW_GROUP)):
                columns = zip(*(_row(row, grouped) for row in page), strict=True)
                table.write_table(pa.table(list(columns), schema))

    _replace(path, write)


def digest_of(path: Path) -> str | None:
    """Return the digest that a manifest was written with; None when there is no manifest."""
    if not path.exists():
        return None
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return metadata.get(DIGEST, b"").decode()


def write_unreadable(path: Path, faults: Iterable[tuple[bytes, str]]) -> int:
    """Write the list of unreadable recordings and why they are; return how many there are."""
    count = 0

    def write(unfinished: Path) -> None:
        nonlocal count
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("path", "reason"))
            for recording, reason in faults:
                table.writerow((_text(recording), reason))
                count += 1

    _replace(path, write)
    return count


def _row(wanted: Wanted, grouped: bool) -> tuple[str | float | None, ...]:
    return (
        f"{wanted.side}/{wanted.name}",
        _text(wanted.source),
        wanted.group if grouped else None,
        wanted.side,
        wanted.seconds,
        wanted.sample_rate,
        wanted.channels,
        wanted.peak,
        wanted.loudness,
        wanted.bandwidth,
    )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file in the place of ``path``, unless that has the same contents."""
    unfinished = atomic_files.temporary(path)
    try:
        write(unfinished)
        if path.exists() and filecmp.cmp(unfinished, path, shallow=False):
            return
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        atomic_files.sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)

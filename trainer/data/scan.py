"""Finding recordings under a folder or in a manifest."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snac_core.audio import AUDIO_SUFFIXES
from snac_core.errors import AudioError
from snac_core.utils.commands import progress
from snac_core.utils.filesystems import is_url
from trainer.data import recording_index
from trainer.data.lengths import MANIFEST, describes, known_lengths
from trainer.data.parquet_files import open_parquet
from trainer.data.places import files_under
from trainer.data.recording_index import clips_in, pages
from trainer.data.recordings import Clip, clip_of, is_audio
from trainer.errors import TrainerError

log = logging.getLogger(__name__)

ROWS = 65536
"""Of a manifest, read at a time."""


def audio_files(folder: str | Path) -> list[Path]:
    """Return the audio files under ``folder``, sorted, by suffix.

    Raises
    ------
    TrainerError
        When the folder does not exist or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TrainerError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if is_audio(path.name))
    if not files:
        raise _nothing(folder)
    return files


def scan(place: str | Path, split: str = "train") -> list[Clip]:
    """Return the recordings that `found_in` yields."""
    return [clip for table in found_in(place, split) for clip in clips_in(table)]


def found_in(place: str | Path, split: str = "train") -> Iterator[pa.Table]:
    """Yield the readable recordings in a place, in order; others are logged and counted.

    Each is opened, but for those whose length a manifest of `prepare` tells.

    Parameters
    ----------
    place
        A folder, searched in depth, or a Parquet manifest with the columns ``path`` (relative to
        its folder, or absolute), ``duration`` (s) and ``sample_rate`` (Hz).
    split
        Which rows of a manifest are meant, where it has a column ``split``.

    Yields
    ------
    pyarrow.Table
        Some of them, with `recording_index.SCHEMA`.

    Raises
    ------
    TrainerError
        When none is readable.
    """
    if str(place).endswith(".parquet"):
        yield from _in_manifest(place, split)
        return
    if is_url(place):
        files: list[str | Path] = [url for url in files_under(str(place)) if is_audio(url)]
        if not files:
            raise _nothing(place)
        yield from pages(_opened(place, files))
        return
    folder = Path(place)
    if folder.is_dir() and describes(folder) and _all_in(folder):
        yield from _in_manifest(folder.parent / MANIFEST, folder.name)
        return
    yield from pages(_opened(folder, list(audio_files(folder))))


def _nothing(place: str | Path) -> TrainerError:
    return TrainerError(
        f"no audio under {place}; known suffixes: {', '.join(sorted(AUDIO_SUFFIXES))}"
    )


def _opened(place: str | Path, files: list[str | Path]) -> Iterator[Clip]:
    """Yield recordings as their headers describe them, or as `prepare` measured them."""
    count = 0
    known = {} if is_url(place) else known_lengths(Path(place))
    for path in progress(files, desc=f"reading {place}", unit="file", delay=2):
        local = isinstance(path, Path)
        length = known.get(os.path.relpath(path, place)) if known else None
        try:
            if length is not None:
                clip = Clip(Path(path), *length)
            else:
                clip = clip_of(Path(path), url="" if local else str(path))
        except AudioError as error:
            log.warning("skipping %s: %s", path, error)
            continue
        count += 1
        yield clip
    if count < len(files):
        log.warning("skipped %d of %d files under %s", len(files) - count, len(files), place)
    if not count:
        raise TrainerError(f"none of the {len(files)} audio files under {place} can be read")


def _all_in(folder: Path) -> bool:
    """Return whether a folder has as many files, and no folders, as its manifest tells of."""
    told = 0
    with open_parquet(folder.parent / MANIFEST) as file:
        for batch in file.iter_batches(ROWS, columns=["split"]):
            told += int((batch.column(0).to_numpy(zero_copy_only=False) == folder.name).sum())
    with os.scandir(folder) as entries:
        for entry in entries:
            told -= 1
            if told < 0 or entry.is_dir(follow_symlinks=False):
                return False
    return not told


def _in_manifest(path: str | Path, split: str) -> Iterator[pa.Table]:
    """Yield what a manifest tells of, without a look at any of it."""
    start, count = str(path).rpartition("/")[0], 0
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if lacking := {"path", "duration", "sample_rate"} - set(names):
            raise TrainerError(
                f"{path} is no manifest of recordings: it lacks {', '.join(sorted(lacking))}, and "
                f"has {', '.join(names)}"
            )
        columns = ["path", "duration", "sample_rate"] + ["split"] * ("split" in names)
        try:
            for batch in file.iter_batches(ROWS, columns=columns):
                table = pa.Table.from_batches([batch])
                if "split" in names:
                    table = table.filter(pc.equal(table["split"], split))
                count += len(table)
                yield _index_rows(table, start, is_url(path))
        except pa.ArrowException as error:
            raise TrainerError(f"{path} cannot be read: {error}") from error
    if not count:
        raise TrainerError(f"{path} has no recordings whose split is {split!r}")


def _index_rows(table: pa.Table, start: str, remote: bool) -> pa.Table:
    """Return rows of a manifest in the folder or at the URL ``start`` as an index has them."""
    names, count = table["path"].cast(pa.large_string()), len(table)
    urls = pc.match_substring(names, "://")
    if start or remote:
        text = pa.large_string()
        joined = pc.binary_join_element_wise(pa.scalar(start, text), names, pa.scalar("/", text))
        names = pc.if_else(pc.or_(urls, pc.starts_with(names, "/")), names, joined)
    rates = table["sample_rate"].cast(pa.int32())
    frames = pc.round(pc.multiply(table["duration"], rates.cast(pa.float64()))).cast(pa.int64())
    paths = names.cast(pa.large_binary())
    elsewhere = paths if remote else pc.if_else(urls, paths, pa.scalar(b"", pa.large_binary()))
    zeros = np.zeros(count, np.int64)
    weights = np.ones(count)
    return pa.table(
        [paths, frames, rates, weights, zeros, zeros, elsewhere, zeros - 1], recording_index.SCHEMA
    )

"""The inputs of `prepare`: recordings in folders or manifests."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.lib
import pyarrow.parquet as pq

from snac_core.audio import AUDIO_SUFFIXES
from snac_core.utils import atomic_files
from trainer.data.recordings import group_of, is_audio
from trainer.errors import TrainerError

MANIFESTS = (".csv", ".jsonl", ".parquet")
PATH_COLUMNS = ("path", "audio_filepath", "file_name")
"""Columns that name a recording, the first that is there; relative to the manifest's folder."""


class Found(NamedTuple):
    """A recording before it was opened."""

    source: bytes
    """Where it really is; two ways to one recording have the same."""
    reached: bytes
    """How it was found."""
    group: str
    """What it must stay together with; itself if nothing."""
    draw: bytes
    """Decides, with those of the others, on which side its group is."""
    size: int
    """Bytes; -1 for what is not there."""
    modified: int
    """Nanoseconds of its last change."""


def find(
    inputs: Sequence[Path],
    leave_out: Sequence[Path],
    seed: int,
    group_by: str | None,
    skip: Callable[[str], None] = lambda path: None,
) -> Iterator[Found]:
    """Yield the recordings of all inputs, one at a time.

    Parameters
    ----------
    inputs
        Folders, searched in depth, and manifests: CSV, JSON lines or Parquet.
    leave_out
        Folders that are not searched, as they are written to, and files that are no input.
    seed
        Decides the draws. So does a recording's path within its input, and nothing outside
        it: the same data give the same split on another machine.
    group_by
        A manifest's column; or else, and for folders, as for `trainer.data.recordings.group_of`.
        None makes each recording a group.
    skip
        Told the path of each file in a folder whose suffix is not read.

    Raises
    ------
    TrainerError
        For an input that is neither, a manifest that cannot be read, or a recording that
        has no group.
    """
    for place in inputs:
        if place.is_dir():
            found: Iterator[tuple[str, str, str, str | None]] = _in_folder(
                os.path.realpath(place), leave_out, skip
            )
        elif place.suffix.lower() in MANIFESTS:
            found = _in_manifest(place, group_by)
        else:
            raise TrainerError(f"{place} is not a folder, nor a manifest ({', '.join(MANIFESTS)})")
        for reached, source, key, group in found:
            if group is None and group_by is not None:
                group = group_of(Path(reached), group_by)
            group = f"recording {key}" if group is None else group
            draw = hashlib.blake2b(f"{seed} {group}".encode("utf-8", "surrogateescape"))
            size, modified = _state(reached)
            named = os.fsencode(reached)
            yield Found(
                os.fsencode(source), named, _text(group), draw.digest()[:16], size, modified
            )


def _in_folder(
    folder: str, leave_out: Sequence[Path], skip: Callable[[str], None]
) -> Iterator[tuple[str, str, str, None]]:
    """Yield how each recording is reached, where it is, and its path within the folder."""
    # Text rather than paths: of a hundred thousand recordings, making paths would be most of
    # the time that a second run takes.
    skipped = {os.fspath(path) for path in leave_out}
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.path not in skipped:
                        waiting.append(entry.path)
                elif entry.name.startswith(atomic_files.TEMPORARY) or entry.path in skipped:
                    continue
                elif not is_audio(entry.name):
                    skip(entry.path)
                else:
                    path = entry.path
                    # The folder's own path has been resolved, and its subfolders are no links.
                    source = os.path.realpath(path) if entry.is_symlink() else path
                    yield path, source, path[len(folder) :].lstrip("/"), None


def _in_manifest(path: Path, group_by: str | None) -> Iterator[tuple[str, str, str, str | None]]:
    for number, row in enumerate(_rows(path), 1):
        names = [column for column in PATH_COLUMNS if row.get(column)]
        if not names:
            raise TrainerError(
                f"row {number} of {path} names no recording: it needs one of the columns "
                f"{', '.join(PATH_COLUMNS)}, and has {', '.join(map(str, row))}"
            )
        name, group = str(row[names[0]]), None
        if group_by is not None and group_by in row:
            if row[group_by] in (None, ""):
                raise TrainerError(f"row {number} of {path} has nothing in its column {group_by}")
            group = str(row[group_by])
        # Not resolved: a link's own name is what a group is looked for in.
        reached = os.path.abspath(path.parent / name)  # noqa: PTH100
        yield reached, os.path.realpath(reached), name, group


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a manifest's rows as they are read."""
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=4096):
                    yield from batch.to_pylist()
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                if path.suffix.lower() == ".csv":
                    yield from csv.DictReader(file, restkey="")
                else:
                    yield from (_object(path, line) for line in file if line.strip())
    except (OSError, UnicodeDecodeError, csv.Error, pyarrow.lib.ArrowException) as error:
        raise TrainerError(f"{path} cannot be read: {error}") from error


def _object(path: Path, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainerError(f"{path} is not JSON lines: {error} in {line[:80]!r}") from error
    if not isinstance(row, dict):
        raise TrainerError(f"{path} must have an object on each line, not {line[:80]!r}")
    return row


def _state(path: str) -> tuple[int, int]:
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        # Measuring it will say what is wrong.
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _text(name: str) -> str:
    """Return a name as text that every program can read, whatever bytes it was made of."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def nothing_found(inputs: Sequence[Path]) -> TrainerError:
    """Return the error that inputs hold no recordings."""
    return TrainerError(
        f"{', '.join(map(str, inputs))} holds no recordings but those prepared; known suffixes: "
        f"{', '.join(sorted(AUDIO_SUFFIXES))}"
    )

"""Files on this machine and in any file system that pyarrow or fsspec knows.

A place is a path, or a URL such as ``s3://bucket/speech``, ``gs://...`` or
``hf://datasets/owner/name``.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

import braceexpand
import pyarrow as pa
from pyarrow import fs

from bulk.errors import SourceError
from snac_core.utils import atomic_files
from snac_core.utils.filesystems import file_system, is_url, open_path

_GLOB = "*?["


class File(NamedTuple):
    """A file as a listing names it."""

    place: str
    size: int
    """Bytes."""
    version: str
    """Size and time of change: another text when the file has other contents."""


def absolute(place: str | Path) -> str:
    """Return a place that means the same in every process of this machine."""
    text = str(place)
    return text.rstrip("/") if is_url(text) else os.path.abspath(text)  # noqa: PTH100


def join(folder: str, name: str) -> str:
    """Return the place of ``name`` in ``folder``; a name that is a place of its own is kept."""
    if is_url(name) or name.startswith("/"):
        return name
    return f"{folder.rstrip('/')}/{name}"


def parent(place: str) -> str:
    """Return the folder that a file is in."""
    return place.rpartition("/")[0] or "."


def open_file(place: str) -> BinaryIO:
    """Return a file opened to be read and sought in; raises OSError when it cannot be."""
    if not is_url(place):
        return Path(place).open("rb")
    system, path = _system(place)
    return open_path(system, path)


@contextlib.contextmanager
def open_text(place: str) -> Iterator[BinaryIO]:
    """Give a file opened to be read forwards, unpacked if its name ends in ``.gz``."""
    with open_file(place) as file:
        if not place.endswith(".gz"):
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)


def read_bytes(place: str) -> bytes:
    """Return a file's contents; raises OSError when it cannot be read."""
    with open_file(place) as file:
        return file.read()


def write_bytes(place: str, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    if not is_url(place):
        atomic_files.replace(Path(place), data)
        return
    system, path = _system(place)
    # An object store shows an object when its upload ends.
    with system.open_output_stream(path) as file:
        file.write(data)


def make_folder(place: str) -> None:
    """Make a folder and those above it."""
    if is_url(place):
        system, path = _system(place)
        system.create_dir(path, recursive=True)
    else:
        atomic_files.make_folder(Path(place))


def remove(place: str) -> None:
    """Remove a file, if it is there."""
    if not is_url(place):
        Path(place).unlink(missing_ok=True)
        return
    system, path = _system(place)
    with contextlib.suppress(FileNotFoundError):
        system.delete_file(path)


def exists(place: str) -> bool:
    """Return whether there is a file or a folder at a place."""
    return bool(_info(place).type != fs.FileType.NotFound)


def is_folder(place: str) -> bool:
    """Return whether a place is a folder."""
    return _info(place).type == fs.FileType.Directory  # type: ignore[no-any-return]


def stat(place: str) -> File | None:
    """Return what is known of a file; None if it is not there."""
    if not is_url(place):
        try:
            known = Path(place).stat()
        except OSError:
            return None
        return File(place, known.st_size, f"{known.st_size}-{known.st_mtime_ns}")
    info = _info(place)
    return _file(place, info) if info.type == fs.FileType.File else None


def files_under(folder: str) -> Iterator[File]:
    """Yield every file under a folder, or the file that is named, sorted by name.

    Raises
    ------
    SourceError
        When there is no such place, or it cannot be listed.
    """
    if not is_url(folder):
        yield from _local_files(folder)
        return
    system, path = _system(folder)
    try:
        (root,) = system.get_file_info([path])
        if root.type == fs.FileType.File:
            yield _file(folder, root)
            return
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{folder} cannot be listed: {error}") from error
    start, root_path = folder.rstrip("/"), path.rstrip("/")
    for one in sorted(found, key=lambda one: one.path):
        if one.type == fs.FileType.File:
            yield _file(f"{start}/{PurePosixPath(one.path).relative_to(root_path)}", one)


def expand(pattern: str) -> list[File]:
    """Return the files that a pattern with ``*``, ``?``, ``[]`` or ``{}`` names, sorted.

    Raises
    ------
    SourceError
        When there are none, or one that is named is missing.
    """
    found: dict[str, File] = {}
    for name in braceexpand.braceexpand(pattern):
        if any(char in name for char in _GLOB):
            fixed = name[: min(name.index(char) for char in _GLOB if char in name)]
            folder = fixed.rpartition("/")[0] or "."
            matches = {
                file.place: file
                for file in files_under(folder)
                if fnmatch.fnmatchcase(file.place.removeprefix("./"), name.removeprefix("./"))
            }
            if not matches:
                raise SourceError(f"nothing matches {name}")
            found |= matches
        else:
            file = stat(name)
            if file is None:
                raise SourceError(f"{name} is not there")
            found[name] = file
    return [found[name] for name in sorted(found)]


def is_pattern(place: str) -> bool:
    """Return whether a place names several by a pattern."""
    return any(char in place for char in _GLOB + "{") and not exists(place)


def _local_files(folder: str) -> Iterator[File]:
    if not Path(folder).exists():
        raise SourceError(f"{folder} is not there")
    if not Path(folder).is_dir():
        yield cast(File, stat(folder))
        return
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if file := stat(f"{root}/{name}"):
                yield file


def _info(place: str) -> fs.FileInfo:
    system, path = _system(place)
    try:
        return system.get_file_info([path])[0]
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{place} cannot be looked up: {error}") from error


def _file(place: str, info: fs.FileInfo) -> File:
    return File(place, info.size or 0, f"{info.size}-{info.mtime_ns}")


def _system(place: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URL, and the path in it."""
    if not is_url(place):
        return fs.LocalFileSystem(), absolute(place)
    try:
        return file_system(place)
    except OSError as error:
        raise SourceError(str(error)) from error

"""Where data lie: on this machine, or in any file system that pyarrow or fsspec knows.

A place is a path, or a URL such as ``s3://bucket/speech``, ``gs://...`` or
``hf://datasets/owner/name``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
from pyarrow import fs

from trainer.errors import TrainerError


def is_url(place: str | Path) -> bool:
    """Return whether a place is a URL rather than a path."""
    return isinstance(place, str) and "://" in place


def open_file(place: str | Path) -> BinaryIO:
    """Return a file at a path or URL, opened to be read and sought in.

    Raises
    ------
    OSError
        When it cannot be opened.
    """
    if not is_url(place):
        return Path(place).open("rb")
    system, path = _system(str(place))
    return cast(BinaryIO, io.BufferedReader(_Raw(system.open_input_file(path))))


def files_under(place: str) -> Iterator[str]:
    """Yield the URL of every file under a URL, or of the one that it names, sorted.

    Raises
    ------
    TrainerError
        When there is no such place, or it cannot be listed.
    """
    system, path = _system(place)
    try:
        (root,) = system.get_file_info([path])
        if root.type == fs.FileType.File:
            yield place
            return
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise TrainerError(f"{place} cannot be listed: {error}") from error
    start = place.rstrip("/")
    for name in sorted(one.path for one in found if one.type == fs.FileType.File):
        yield f"{start}/{PurePosixPath(name).relative_to(path.rstrip('/'))}"


def _system(url: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL, and the path in it: pyarrow's own or fsspec's."""
    try:
        system, path = fs.FileSystem.from_uri(url)
        return system, path
    except (ValueError, NotImplementedError, pa.ArrowException):
        pass
    try:
        other, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise TrainerError(f"{url} is in no file system that is known here: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(other)), str(path)


class _Raw(io.RawIOBase):
    """A file of pyarrow's as Python's own kind, which libsndfile's binding asks for."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

"""File systems behind URLs such as ``s3://bucket/speech``: pyarrow's own and fsspec's.

It needs pyarrow and fsspec, which the extras ``train`` and ``bulk`` bring.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
from pyarrow import fs

_ARROW_SCHEMES = frozenset({"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"})
"""What pyarrow opens by itself. All others are left to fsspec; none is tried with both, as the two
take credentials and endpoints from different places."""


def is_url(place: str | Path) -> bool:
    """Return whether a place is a URL rather than a path."""
    return isinstance(place, str) and "://" in place


def file_system(url: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of ``url``, and the path in it.

    Raises
    ------
    OSError
        If no file system takes the URL, or it cannot be reached.
    """
    try:
        if url.partition("://")[0] in _ARROW_SCHEMES:
            system, path = fs.FileSystem.from_uri(url)
            return system, path
        other, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError, pa.ArrowException) as error:
        raise OSError(f"{url} cannot be opened: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(other)), str(path)


def open_path(system: fs.FileSystem, path: str) -> BinaryIO:
    """Return a file of ``system``, open for reading and seeking; OSError if there is none."""
    return cast(BinaryIO, io.BufferedReader(_Raw(system.open_input_file(path)), 2**18))


class _Raw(io.RawIOBase):
    """A file of pyarrow's as the class of Python's own that libsndfile's binding expects."""

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

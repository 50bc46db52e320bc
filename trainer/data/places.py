"""Locations of data: local paths, or URLs of any file system that pyarrow or fsspec supports.

A place is a path, or a URL such as ``s3://bucket/speech``, ``gs://...`` or
``hf://datasets/owner/name``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs

from snac_core.utils.filesystems import file_system, is_url, open_path
from trainer.errors import TrainerError


def open_file(place: str | Path) -> BinaryIO:
    """Return the file at a path or URL, open for reading and seeking.

    Raises
    ------
    OSError
        When it cannot be opened.
    """
    if not is_url(place):
        return Path(place).open("rb")
    system, path = _system(str(place))
    return open_path(system, path)


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
    """Return the file system of a URL, and the path in it."""
    try:
        return file_system(url)
    except OSError as error:
        raise TrainerError(str(error)) from error

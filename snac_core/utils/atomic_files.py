"""Files that are there whole or not at all, whenever a process dies or the power goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from snac_core.errors import StoreError

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders begin."""


def temporary(path: Path) -> Path:
    """Return a new name beside ``path`` for what is to become it."""
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")


def write(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has its contents."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, and nothing else that may have its name.

    A pipe would keep its reader waiting for ever; an endless device has no end.

    Raises
    ------
    OSError
        If it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """Return a regular file's contents; OSError if it is none, or has more than ``most`` bytes."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data


def replace(path: Path, data: bytes) -> None:
    """Write ``path`` so that whoever opens it finds the old contents or the new."""
    unfinished = temporary(path)
    try:
        write(unfinished, data)
        unfinished.replace(path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and those above it, unless they are there."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(folder: Path) -> None:
    """Wait until the disk has the names in ``folder``, as fsync does for a file's contents."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove the unfinished file or folder ``path``, as far as possible."""
    # What stays has a temporary's name: no reader looks at it, and a later removal may succeed.
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, seconds: float = 30.0) -> Iterator[None]:
    """Hold the lock file ``path``; it is let go of when the process dies.

    Raises
    ------
    StoreError
        If it cannot be opened or locked, or another process holds it for ``seconds``.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened for writing: {error.strerror}") from error
    try:
        _lock(descriptor, path, seconds)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StoreError(f"another process has held {path} for {seconds:g} s") from error
        except OSError as error:
            raise StoreError(f"{path} cannot be locked: {error.strerror}") from error
        time.sleep(0.01)

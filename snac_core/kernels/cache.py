"""Where built libraries are kept: there whole or not at all, and named after what is in them.

A library that was cut short kills whoever loads it, and an empty one would be passed over for
ever. So the name ends in a checksum of the contents; a file that does not have it is removed, and
built again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from pathlib import Path

from snac_core.utils import atomic_files


def user_folder() -> Path | None:
    """Return this user's cache, made if need be; None if there is none that can be written to."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "snac_tokenizer"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter for a user without a name or a home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


@functools.cache
def process_folder() -> Path:
    """Return a folder that lasts as long as this process."""
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="snac-kernels-")


def find(folder: Path, stem: str) -> Path | None:
    """Return the whole library of that name in ``folder``; removes what is not whole."""
    try:
        candidates = sorted(folder.glob(f"{stem}-*.so"))
    except OSError:
        return None
    for path in candidates:
        with contextlib.suppress(OSError):
            if path.name == _named(stem, path):
                return path
            path.unlink()
    return None


def keep(built: Path, folder: Path, stem: str) -> Path:
    """Move a library to its place in ``folder`` once the disk has it; raises OSError."""
    with built.open("rb") as file:
        os.fsync(file.fileno())
    target = folder / _named(stem, built)
    built.replace(target)
    atomic_files.sync(folder)
    return target


def _named(stem: str, path: Path) -> str:
    with atomic_files.open_regular(path) as file:
        return f"{stem}-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.so"

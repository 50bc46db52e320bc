"""C libraries that print: libmpg123 writes lines of text about every frame that it dislikes."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading
from collections.abc import Iterator


class _Stderr:
    """The C library's ``stderr``, which is put aside while anybody asks for it.

    The variable is exchanged, not the file descriptor: Python's own messages, logs and
    tracebacks are written to the descriptor and go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        # Only glibc lets its variable be written.
        library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
        self._variable = ctypes.c_void_p.in_dll(library, "stderr") if library else None
        self._usual = self._variable.value if self._variable is not None else None
        self._null: int | None = None
        if library:
            library.fopen.restype = ctypes.c_void_p
            self._null = library.fopen(b"/dev/null", b"w")

    def change(self, users: int) -> None:
        """Count those that want it quiet; ``users`` is 1 or -1."""
        with self._lock:
            self._users += users
            if self._variable is not None and self._null:
                self._variable.value = self._null if self._users else self._usual


_stderr = _Stderr()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what C libraries print out of the process's stderr."""
    _stderr.change(1)
    try:
        yield
    finally:
        _stderr.change(-1)
